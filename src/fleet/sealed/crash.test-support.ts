/** What the crash test of the sealed door does to the tree, and how it looks at one. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export function changeTree(dir: string): void {
  const at = (path: string) => join(dir, path);
  writeFileSync(at('etc/motd'), 'changed');
  rmSync(at('etc/gone'));
  rmSync(at('usr/share/doc'), { recursive: true });
  mkdirSync(at('usr/share/doc'));
  writeFileSync(at('usr/share/doc/own'), 'own');
  renameSync(at('usr/share/man'), at('usr/man'));
  rmSync(at('usr/man/one'));
}

/** Every path with what it is. */
export function treeOf(dir: string, path = '', into: Record<string, string> = {}): Record<string, string> {
  for (const name of readdirSync(join(dir, path)).sort()) {
    const at = path === '' ? name : `${path}/${name}`;
    if (lstatSync(join(dir, at)).isDirectory()) {
      into[at] = 'dir';
      treeOf(dir, at, into);
    } else into[at] = readFileSync(join(dir, at), 'utf8');
  }
  return into;
}
