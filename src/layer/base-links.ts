/** The links of the merged /usr that the base layer holds, as debootstrap makes them: bin -> usr/bin and so on. */
import type { Name } from '../base/index.ts';
import type { TreeWriter } from './tree-writer.ts';

const EVERYWHERE = ['bin', 'sbin', 'lib'];
/** debootstrap, functions: setup_merged_usr. */
const BY_ARCHITECTURE: Record<string, string[]> = {
  amd64: ['lib32', 'lib64', 'libx32'],
  i386: ['lib64', 'libx32'],
  mips64el: ['lib32', 'lib64', 'libo32'],
  mipsel: ['lib32', 'lib64'],
  ppc64el: ['lib64'],
  s390x: ['lib32'],
  x32: ['lib32', 'lib64', 'libx32'],
};

/** Adds the links and the directories they lead to, where they are not there yet. */
export function addBaseLinks(writer: TreeWriter, architecture: string, mtimeSec: number): void {
  const attributes = { mode: 0o755, uid: 0, gid: 0, mtimeSec, mtimeNsec: 0 };
  for (const name of [...EVERYWHERE, ...(BY_ARCHITECTURE[architecture] ?? [])]) {
    const directory = `usr/${name}` as Name;
    if (!writer.entries.has(directory)) writer.directory(directory, attributes);
    if (!writer.entries.has(name)) writer.symlink(name as Name, attributes, directory);
  }
}
