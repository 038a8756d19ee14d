/** The kernel's list of mounts, for those of Strata. */
import { readFileSync } from 'node:fs';

/** Mountpoints of Strata's FUSE mounts in this mount namespace (latin1 paths), in the order they were made; a path twice when stacked. */
export function strataMountpoints(): string[] {
  const found: string[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-');
    if (dash < 0 || fields[dash + 1] !== 'fuse.strata') continue;
    // Blank, tab, newline and backslash are written as \ooo.
    found.push(
      fields[4]!.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
    );
  }
  return found;
}
