"""The list of studies."""

from __future__ import annotations

import msgspec

from lab.studies import studies


def test_every_study_has_a_name_of_its_own_and_a_result_that_can_be_printed() -> None:
    found = studies()
    assert [study.name for study in found] == sorted({study.name for study in found})
    cheap = [study for study in found if study.name in ("cutoff", "metro")]
    for study in cheap:
        result = study.run(1)
        assert result == study.run(1)
        assert msgspec.json.decode(msgspec.json.encode(result))
