/** A small file that is there whole or not at all when this process is killed; nothing of it outlives the machine's boot. */
import { writeFileSync } from 'node:fs';
import { nameFromText, StrataError } from '../../base/index.ts';
import { errnoName, replaceName } from '../../sys/index.ts';

export function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.tmp`, text, { mode: 0o600 });
  const put = replaceName(nameFromText(`${file}.tmp`), nameFromText(file));
  if (put < 0) throw new StrataError('IO', `cannot write ${file}: ${errnoName(put)}`);
}
