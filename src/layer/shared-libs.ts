/**
 * The file `shared-libs` of a unit (paper, 5.3): which dependency a program has that was linked against one of the unit's libraries.
 * One line each: LIBRARY SONAME-VERSION DEPENDENCY, as in Debian's shlibs files, e.g. `libz 1 zlib1g (>= 1:1.2.0)`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { DebPackage } from '../formats/contract.ts';
import { compareVersions } from '../formats/index.ts';
import type { LayerUnit } from './contract.ts';
import { readPlainFile } from './plain-file.ts';

export interface SharedLib {
  library: string;
  /** Of the SONAME. */
  version: string;
  /** A Depends field's text. */
  dependency: string;
}

/** `libz.so.1` -> libz 1, `libfoo-2.3.so` -> libfoo 2.3 (dpkg-shlibdeps(1)); null for names of another form. */
export function splitSoname(soname: string): { library: string; version: string } | null {
  const m = /^(.+)\.so\.(\S+)$/.exec(soname) ?? /^(.+)-(\d\S*)\.so$/.exec(soname);
  return m === null ? null : { library: m[1]!, version: m[2]! };
}

/** Reads shlibs or shared-libs text; lines of another form are passed over, as are those of a type such as `udeb:`. */
export function parseSharedLibs(text: string): SharedLib[] {
  const libs: SharedLib[] = [];
  for (const line of text.split('\n')) {
    const m = /^(\S+)[ \t]+(\S+)(?:[ \t]+(\S.*?))?[ \t]*$/.exec(line);
    if (m === null || line.startsWith('#') || m[1]!.endsWith(':') || m[3] === undefined) continue;
    libs.push({ library: m[1]!, version: m[2]!, dependency: m[3] });
  }
  return libs;
}

export function formatSharedLibs(libs: readonly SharedLib[]): string {
  return libs.map(({ library, version, dependency }) => `${library} ${version} ${dependency}\n`).join('');
}

/** From a symbols file (deb-symbols(5)): for each library the dependency that satisfies every symbol. */
export function sharedLibsFromSymbols(text: string): SharedLib[] {
  const libs: SharedLib[] = [];
  let current: {
    soname: { library: string; version: string } | null;
    template: string;
    newest: string;
  } | null = null;
  const finish = (): void => {
    if (current?.soname == null) return;
    const bound = current.newest === '' ? '' : `(>= ${current.newest})`;
    const dependency = current.template.replaceAll('#MINVER#', bound).replace(/\s+/g, ' ').trim();
    libs.push({ ...current.soname, dependency });
  };
  for (const line of text.split('\n')) {
    const header = /^([^\s#|*][^\s]*)\s+(\S.*)$/.exec(line);
    if (header !== null) {
      finish();
      current = { soname: splitSoname(header[1]!), template: header[2]!, newest: '' };
      continue;
    }
    const symbol = /^ (?:\([^)]*\))?(?:"[^"]*"|\S+)\s+(\S+)/.exec(line);
    if (symbol === null || current === null) continue;
    if (current.newest === '' || compareVersions(symbol[1]!, current.newest) > 0) current.newest = symbol[1]!;
  }
  finish();
  return libs;
}

/** What a package's shlibs and symbols files say; shlibs wins for a library in both. */
export function sharedLibsOfPackage(deb: DebPackage): SharedLib[] {
  const text = (name: string): string =>
    Buffer.from(deb.controlFiles.get(name)?.bytes ?? []).toString('utf8');
  const libs = new Map<string, SharedLib>();
  for (const lib of [...sharedLibsFromSymbols(text('symbols')), ...parseSharedLibs(text('shlibs'))]) {
    libs.set(`${lib.library} ${lib.version}`, lib);
  }
  return [...libs.values()];
}

/** The unit's shared-libs; [] when it has none. */
export function readSharedLibs(unit: LayerUnit): SharedLib[] {
  const file = join(unit.dir, 'shared-libs');
  return existsSync(file) ? parseSharedLibs(readPlainFile(file).toString('utf8')) : [];
}
