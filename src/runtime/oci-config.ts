/**
 * From a ContainerSpec to an OCI runtime configuration (runtime-spec 1.0, config.json). Pure: what it needs to know of the
 * host comes in as HostFacts. It keeps true: capabilities, masked and read-only paths are those that container engines
 * give by default, never more; the container sees neither the host's processes nor its root.
 */
import type { ContainerSpec } from './contract.ts';
import { type SeccompProfile, seccompProfile } from './seccomp.ts';

/** Docker's default capabilities. */
const DEFAULT_CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_MKNOD',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_RAW',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
] as const;

/** Bit numbers of linux/capability.h for the names above. */
const CAPABILITY_BITS: Record<(typeof DEFAULT_CAPABILITIES)[number], number> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_NET_RAW: 13,
  CAP_SYS_CHROOT: 18,
  CAP_MKNOD: 27,
  CAP_AUDIT_WRITE: 29,
  CAP_SETFCAP: 31,
};

const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
];

const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** Character devices besides null, zero, full, random, urandom, tty, which every OCI runtime makes. */
const ALLOWED_DEVICES = [
  { type: 'c', major: 1, minor: 3 },
  { type: 'c', major: 1, minor: 5 },
  { type: 'c', major: 1, minor: 7 },
  { type: 'c', major: 1, minor: 8 },
  { type: 'c', major: 1, minor: 9 },
  { type: 'c', major: 5, minor: 0 },
  { type: 'c', major: 5, minor: 1 },
  { type: 'c', major: 5, minor: 2 },
  { type: 'c', major: 136 },
];

/** How the cgroups of this host can be used; see host.ts. */
export type CgroupMode = 'unified' | 'legacy' | 'none';

export interface HostFacts {
  cgroupMode: CgroupMode;
  /** Bounding set of this process as the kernel's mask. */
  capabilityMask: bigint;
  /** Hard limit of open files. */
  openFilesLimit: number;
}

export interface OciMount {
  destination: string;
  type: string;
  source: string;
  options: string[];
}

export interface OciConfig {
  ociVersion: string;
  process: Record<string, unknown>;
  root: { path: string; readonly: boolean };
  hostname: string;
  mounts: OciMount[];
  linux: { cgroupsPath?: string; seccomp: SeccompProfile } & Record<string, unknown>;
}

const DEFAULT_ENV: Record<string, string> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
};

function baseMounts(cgroupMode: CgroupMode): OciMount[] {
  const mount = (destination: string, type: string, ...options: string[]): OciMount => ({
    destination,
    type,
    source: type,
    options,
  });
  return [
    mount('/proc', 'proc', 'nosuid', 'noexec', 'nodev'),
    mount('/dev', 'tmpfs', 'nosuid', 'strictatime', 'mode=755', 'size=65536k'),
    mount('/dev/pts', 'devpts', 'nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'),
    mount('/dev/shm', 'tmpfs', 'nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'),
    mount('/dev/mqueue', 'mqueue', 'nosuid', 'noexec', 'nodev'),
    mount('/sys', 'sysfs', 'nosuid', 'noexec', 'nodev', 'ro'),
    cgroupMode === 'unified'
      ? mount('/sys/fs/cgroup', 'cgroup', 'nosuid', 'noexec', 'nodev', 'relatime', 'ro')
      : mount('/sys/fs/cgroup', 'tmpfs', 'nosuid', 'noexec', 'nodev', 'ro', 'mode=755', 'size=4k'),
  ];
}

function specMounts(spec: ContainerSpec): OciMount[] {
  return (spec.mounts ?? []).map((m) => ({
    destination: m.target,
    type: 'bind',
    source: m.source,
    options: ['rbind', 'nosuid', 'nodev', m.writable ? 'rw' : 'ro'],
  }));
}

/** What a container of this spec may do at most: the default set, less what this process cannot give. */
export function containerCapabilities(facts: HostFacts): string[] {
  return DEFAULT_CAPABILITIES.filter((name) => {
    // Without device rules a device node would open the host's disks.
    if (name === 'CAP_MKNOD' && facts.cgroupMode === 'none') return false;
    return ((facts.capabilityMask >> BigInt(CAPABILITY_BITS[name])) & 1n) === 1n;
  });
}

/** The OCI configuration of a container. `extraMounts` (the generated files of /etc) come before the spec's own. */
export function ociConfig(spec: ContainerSpec, facts: HostFacts, extraMounts: OciMount[]): OciConfig {
  const capabilities = containerCapabilities(facts);
  const user = spec.user ?? { uid: 0, gid: 0 };
  const effective = user.uid === 0 ? capabilities : [];
  const env = {
    ...DEFAULT_ENV,
    HOSTNAME: spec.hostname,
    ...(spec.terminal ? { TERM: 'xterm' } : {}),
    ...spec.env,
  };
  const namespaces = ['mount', 'pid', 'ipc', 'uts', 'cgroup'];
  if (spec.network === 'none') namespaces.push('network');
  return {
    ociVersion: '1.0.0',
    process: {
      terminal: spec.terminal,
      user: { uid: user.uid, gid: user.gid, umask: 0o22 },
      args: spec.command,
      env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      cwd: spec.cwd,
      capabilities: { bounding: capabilities, effective, permitted: effective },
      rlimits: [
        {
          type: 'RLIMIT_NOFILE',
          soft: Math.min(facts.openFilesLimit, 65_536),
          hard: Math.min(facts.openFilesLimit, 1_048_576),
        },
      ],
      // As in engines by default: sudo and other setuid programs work inside.
      noNewPrivileges: false,
    },
    root: { path: spec.rootfs, readonly: false },
    hostname: spec.hostname,
    mounts: [...baseMounts(facts.cgroupMode), ...extraMounts, ...specMounts(spec)],
    linux: {
      ...(facts.cgroupMode === 'none'
        ? {}
        : {
            cgroupsPath: `/strata-${spec.id}`,
            resources: {
              devices: [
                { allow: false, access: 'rwm' },
                // Nodes may be made, as engines allow; only the listed ones can be opened.
                { allow: true, type: 'c', access: 'm' },
                { allow: true, type: 'b', access: 'm' },
                ...ALLOWED_DEVICES.map((device) => ({ allow: true, ...device, access: 'rwm' })),
              ],
            },
          }),
      namespaces: namespaces.map((type) => ({ type })),
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
      seccomp: seccompProfile({ suppressSync: spec.suppressSync ?? false }),
    },
  };
}
