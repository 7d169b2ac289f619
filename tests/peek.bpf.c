/* What whoever may load tracing programs can do: reads 32 bytes of any process, hardened or not. A test's attacker. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#define RELOCATED __attribute__((preserve_access_index))
struct task_struct { int tgid; } RELOCATED;
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; } RELOCATED;
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; } RELOCATED;
struct wanted { unsigned long long pid, address; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct wanted);
} wanted SEC(".maps");

char _license[] SEC("license") = "GPL";

SEC("iter.s/task")
int peek(struct bpf_iter__task *step)
{
	struct task_struct *task = step->task;
	__u32 zero = 0;
	char seed[32];
	struct wanted *w = bpf_map_lookup_elem(&wanted, &zero);

	if (!task || !w || (unsigned int)task->tgid != w->pid)
		return 0;
	if (bpf_copy_from_user_task(seed, 32, (void *)w->address, task, 0) == 0)
		bpf_seq_write(step->meta->seq, seed, 32);
	return 0;
}
