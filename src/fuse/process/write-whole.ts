/** A small file that is there whole or not at all when this process is killed; nothing of it outlives the machine's boot. */
import { renameSync, writeFileSync } from 'node:fs';

export function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.tmp`, text, { mode: 0o600 });
  renameSync(`${file}.tmp`, file);
}
