/**
 * What dpkg would have in /var/lib/dpkg/info for an unpacked package, as files of the unit's tree: PKG.list, PKG.md5sums, PKG.conffiles,
 * the maintainer scripts and the rest (PKG:ARCH.* for `Multi-Arch: same`). Source: dpkg, lib/dpkg/db-fsys-files.c and src/main/unpack.c.
 */
import type { Name } from '../base/index.ts';
import type { DebPackage } from '../formats/contract.ts';
import { stanzaField } from '../formats/index.ts';
import type { TreeWriter } from './tree-writer.ts';

export const SCRIPTS = ['preinst', 'postinst', 'prerm', 'postrm', 'config'] as const;
const INFO_DIR = 'var/lib/dpkg/info';

/** The name that dpkg's info files of this package begin with: `PKG` or `PKG:ARCH`. */
export function infoName(control: DebPackage['control']): string {
  const name = stanzaField(control, 'Package')!;
  return stanzaField(control, 'Multi-Arch') === 'same'
    ? `${name}:${stanzaField(control, 'Architecture')}`
    : name;
}

/** The text of PKG.list: the package's own paths in their order, the root as '/.'. */
export function listFile(paths: readonly Name[]): Buffer {
  const lines = ['/.'];
  for (const path of paths) if (path !== '') lines.push(`/${path}`);
  return Buffer.from(`${lines.join('\n')}\n`, 'latin1');
}

/** Writes the info files. `paths` are those of data.tar. */
export async function writeInfoFiles(
  writer: TreeWriter,
  deb: DebPackage,
  paths: readonly Name[],
  mtimeSec: number,
): Promise<void> {
  const prefix = `${INFO_DIR}/${infoName(deb.control)}`;
  const attributes = { mode: 0o644, uid: 0, gid: 0, mtimeSec, mtimeNsec: 0 };
  const put = async (suffix: string, bytes: Uint8Array, mode: number): Promise<void> => {
    await writer.file(
      `${prefix}.${suffix}` as Name,
      { ...attributes, mode },
      { sizeBytes: bytes.length, data: bytes },
    );
  };
  await put('list', listFile(paths), 0o644);
  for (const [name, { bytes }] of [...deb.controlFiles].sort(([a], [b]) => (a < b ? -1 : 1))) {
    // dpkg keeps the stanza in its status file, and a package's own "list" is not believed.
    if (name === 'control' || name === 'list') continue;
    await put(name, bytes, (SCRIPTS as readonly string[]).includes(name) ? 0o755 : 0o644);
  }
}

/** Paths (relative, as in the archive) of the conffiles that the package brings. */
export function conffilePaths(deb: DebPackage): string[] {
  const file = deb.controlFiles.get('conffiles');
  if (file === undefined) return [];
  const paths: string[] = [];
  for (const line of Buffer.from(file.bytes).toString('latin1').split('\n')) {
    // A flag before the path ("remove-on-upgrade /etc/x") says that the package does not bring it any more.
    const path = line.trimEnd();
    if (path.startsWith('/')) paths.push(path.replace(/^\/+/, ''));
  }
  return paths;
}
