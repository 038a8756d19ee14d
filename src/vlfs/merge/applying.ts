/** A merge that is being applied, and the places that it comes to. */
import { nameToText, StrataError } from '../../base/index.ts';
import type { Change } from '../compare/compare.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { systemFailure } from '../failure.ts';
import type { Sides } from './plan.ts';

export interface Applying {
  sides: Sides;
  /** What is changed. */
  core: Core;
  puts: Map<string, Change>;
  removes: Set<string>;
  /** First place of each inode of the child that was put. */
  placed: Map<string, string>;
  inodes: Map<string, string>;
  /** The paths of each inode of the child. */
  names: Map<string, string[]>;
  /** Renamed directories: where what stood at the first path is now. */
  moved: { from: string; to: string }[];
  /** Directories that the child made, whose times are set at the end. */
  made: string[];
}

export function must(result: number, path: string): void {
  if (result < 0) throw systemFailure(result, `merge ${nameToText(path as never)}`);
}

/** The directory of a path, and its name there. */
export function endOf(core: Core, path: string): { parent: Node; name: string } {
  const parts = path.split('/');
  const name = parts.pop()!;
  const parent = directoryByPath(core, parts);
  if (parent === null)
    throw new StrataError('INTERNAL', `a merge lacks the directory of ${nameToText(path as never)}`);
  return { parent, name };
}
