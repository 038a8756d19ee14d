/**
 * A throttled file system: a directory (spec.privateDir) of the host, of which every operation takes `slow-MS` milliseconds longer (from
 * spec.name). Another process serves it, so that an appliance's private layer can stand on it. It keeps trusted attributes under other names,
 * because a VLFS keeps those for itself.
 */
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { openVlfs as openReal } from '../../vlfs/index.ts';
import type { ServedVlfs } from '../loop/served-vlfs.ts';

const PREFIX = 'security.nested.';
const SLEEP = new Int32Array(new SharedArrayBuffer(4));
/** What the kernel asks again and again, or what ends something. */
const FAST = new Set(['init', 'forget', 'attrValidMs', 'destroy', 'release', 'releasedir', 'stats']);

const stored = (name: string): string => (name.startsWith('trusted.') ? PREFIX + name : name);

export function openVlfs(spec: VlfsSpec, options: object): ServedVlfs {
  const delayMs = Number(/slow-(\d+)/.exec(spec.name)?.[1] ?? 0);
  const real = openReal(spec, options);
  const vlfs = {
    ...real,
    getxattr: (c, node, name) => real.getxattr(c, node, stored(name) as never),
    setxattr: (c, node, name, ...rest) => real.setxattr(c, node, stored(name) as never, ...rest),
    removexattr: (c, node, name) => real.removexattr(c, node, stored(name) as never),
    listxattr(c, node) {
      const list = real.listxattr(c, node);
      if (typeof list === 'number') return list;
      return Buffer.from(Buffer.from(list).toString('latin1').replaceAll(PREFIX, ''), 'latin1');
    },
  } as ServedVlfs;
  const slow: Record<string, unknown> = {};
  for (const [name, operation] of Object.entries(vlfs)) {
    const run = operation as (...args: unknown[]) => unknown;
    slow[name] = FAST.has(name)
      ? run
      : (...args: unknown[]) => {
          Atomics.wait(SLEEP, 0, 0, delayMs);
          return run(...args);
        };
  }
  return slow as unknown as ServedVlfs;
}
