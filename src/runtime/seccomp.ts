/**
 * The seccomp profile of a container: what container engines refuse by default, as a deny list in OCI form.
 * It keeps true: a call that could leave the container or change the host's kernel fails with EPERM, and everything
 * that an ordinary userland does works. It must not depend on the host: the profile is a constant.
 *
 * Source: the default profile of Docker (moby, profiles/seccomp/default.json) for a container without added capabilities;
 * the calls that it leaves out are denied here.
 */

export interface SeccompArg {
  index: number;
  value: number;
  valueTwo?: number;
  op: 'SCMP_CMP_EQ' | 'SCMP_CMP_MASKED_EQ';
}

export interface SeccompRule {
  names: string[];
  action: 'SCMP_ACT_ERRNO';
  errnoRet: number;
  args?: SeccompArg[];
}

export interface SeccompProfile {
  defaultAction: 'SCMP_ACT_ALLOW';
  architectures: string[];
  syscalls: SeccompRule[];
}

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

/** Calls that are refused whatever their arguments. */
const DENIED: readonly string[] = [
  // Modules, another kernel, power.
  ...['init_module', 'finit_module', 'delete_module', 'create_module', 'query_module', 'get_kernel_syms'],
  ...['kexec_load', 'kexec_file_load', 'reboot'],
  // Mounts and namespaces.
  ...['mount', 'umount', 'umount2', 'pivot_root', 'move_mount', 'open_tree', 'open_tree_attr', 'fsopen'],
  ...['fsconfig', 'fsmount', 'fspick', 'mount_setattr', 'setns', 'unshare', 'swapon', 'swapoff'],
  // The kernel's inside: programs, tracing, logs, keys, page faults.
  ...['bpf', 'perf_event_open', 'lookup_dcookie', 'syslog', 'fanotify_init', 'userfaultfd', 'kcmp'],
  ...['add_key', 'keyctl', 'request_key', 'io_uring_setup', 'io_uring_enter', 'io_uring_register'],
  // Files by handle would lead out of the root.
  'open_by_handle_at',
  // The machine: clocks, ports, accounting, quotas, memory policy, terminals of others, host name.
  ...['settimeofday', 'clock_settime', 'clock_settime64', 'clock_adjtime', 'clock_adjtime64', 'stime'],
  ...['iopl', 'ioperm', 'acct', 'quotactl', 'quotactl_fd', 'vhangup', 'sethostname', 'setdomainname'],
  ...['get_mempolicy', 'set_mempolicy', 'set_mempolicy_home_node', 'mbind', 'move_pages', 'migrate_pages'],
  // Obsolete and never needed.
  ...['_sysctl', 'nfsservctl', 'sysfs', 'uselib', 'ustat', 'vm86', 'vm86old'],
];

/** CLONE_NEW* of linux/sched.h: one rule each, because a rule can ask only for bits that are all set. */
const NAMESPACE_FLAGS = [
  0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
];

const AF_VSOCK = 40;

/** Personalities that engines allow: Linux, UNAME26, PER_LINUX32, both, and 0xffffffff, which only asks. */
const PERSONALITY_BITS = 0x20008;

function deny(names: string[], errnoRet = EPERM, args?: SeccompArg[]): SeccompRule {
  return { names, action: 'SCMP_ACT_ERRNO', errnoRet, ...(args ? { args } : {}) };
}

function maskedEqual(mask: number, value: number): SeccompArg {
  return { index: 0, value: mask >>> 0, valueTwo: value >>> 0, op: 'SCMP_CMP_MASKED_EQ' };
}

/**
 * Denies every personality but the allowed ones. "Not in a set" cannot be said with masks directly, so: with bit 31
 * clear any other bit outside PERSONALITY_BITS is refused, and with bit 31 set every other bit must be set too.
 */
function personalityRules(): SeccompRule[] {
  const top = 0x80000000;
  const rules: SeccompRule[] = [];
  for (let bit = 0; bit < 31; bit++) {
    const flag = 1 << bit;
    if ((PERSONALITY_BITS & flag) === 0)
      rules.push(deny(['personality'], EPERM, [maskedEqual(top | flag, flag)]));
    rules.push(deny(['personality'], EPERM, [maskedEqual(top | flag, top)]));
  }
  return rules;
}

/** The architectures whose calls a process can make on this machine; the deny list must cover them all. */
export function seccompArchitectures(arch: string): string[] {
  if (arch === 'x64') return ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'];
  if (arch === 'arm64') return ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'];
  return [];
}

const SYNC_CALLS = ['fsync', 'fdatasync', 'sync', 'syncfs', 'sync_file_range', 'sync_file_range2', 'msync'];

export interface SeccompOptions {
  /** fsync and the like succeed without doing anything. */
  suppressSync?: boolean;
  /** Node's name of the machine's architecture. */
  arch?: string;
}

/** The profile for containers on this machine. */
export function seccompProfile(options: SeccompOptions = {}): SeccompProfile {
  const arch = options.arch ?? process.arch;
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    architectures: seccompArchitectures(arch),
    syscalls: [
      deny([...DENIED]),
      // clone3's flags are behind a pointer that a filter cannot read; ENOSYS makes libc fall back to clone.
      deny(['clone3'], ENOSYS),
      ...NAMESPACE_FLAGS.map((flag) => deny(['clone'], EPERM, [maskedEqual(flag, flag)])),
      deny(['socket'], EAFNOSUPPORT, [{ index: 0, value: AF_VSOCK, op: 'SCMP_CMP_EQ' }]),
      ...personalityRules(),
      ...(options.suppressSync ? [deny(SYNC_CALLS, 0)] : []),
    ],
  };
}
