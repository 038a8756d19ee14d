/** Units for tests, written briefly. */
import type { OfferedUnit } from './contract.ts';

export type UnitFields = Partial<Omit<OfferedUnit, 'layer' | 'version'>>;

/** `unit('foo 1.0', { depends: 'bar' })`, in repository main unless the name says `other/foo 1.0`. */
export function unit(name: string, fields: UnitFields = {}): OfferedUnit {
  const [path, version] = name.split(' ');
  const slash = path!.indexOf('/');
  const layer = path!.slice(slash + 1);
  const repo = slash < 0 ? 'main' : path!.slice(0, slash);
  return { repo, layer, version: version ?? '1', category: 'software', ...fields };
}
