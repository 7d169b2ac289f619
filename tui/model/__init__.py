"""What the screens show, as text: out of values of the local API. Knows neither the toolkit nor the connection."""
