/**
 * The Unix ar archive as .deb uses it (deb(5)): a streaming reader, one member at a time, never a member in memory.
 * Headers are checked character by character; GNU ('name/') and plain names are understood, long-name tables are not needed by .deb and refused.
 */
import { FormatError } from '../base/index.ts';
import { ByteReader, stretch } from './byte-reader.ts';

export interface ArMember {
  name: string;
  sizeBytes: number;
  mtimeSec: number;
  /** Where the member's data begins in the archive. */
  offset: number;
  /** Must be read, or left, before the next member is asked for. */
  data: AsyncIterable<Uint8Array>;
}

const MAGIC = '!<arch>\n';
const HEADER_BYTES = 60;

function decimal(text: string, offset: number, format: string, what: string): number {
  const trimmed = text.trimEnd();
  if (!/^\d*$/.test(trimmed)) throw new FormatError(format, offset, `a bad ${what} in a member header`);
  return Number(trimmed);
}

/** The members of an ar archive in their order. Throws FormatError for truncation, lying sizes and garbage. */
export async function* readAr(
  source: AsyncIterable<Uint8Array>,
  options: { format?: string } = {},
): AsyncGenerator<ArMember> {
  const format = options.format ?? 'ar';
  const reader = new ByteReader(source, format);
  try {
    const magic = await reader.readUpTo(MAGIC.length);
    if (magic.toString('latin1') !== MAGIC) throw new FormatError(format, 0, 'this is no ar archive');
    while (!(await reader.atEnd())) {
      const start = reader.offset;
      const header = (await reader.read(HEADER_BYTES, 'a member header')).toString('latin1');
      if (header.slice(58) !== '`\n')
        throw new FormatError(format, start + 58, 'a member header without its end mark');
      const rawName = header.slice(0, 16).trimEnd();
      const name = rawName.endsWith('/') ? rawName.slice(0, -1) : rawName;
      if (name === '' || /[^!-~]|\//.test(name) || /^#1$/.test(name))
        throw new FormatError(format, start, `a bad member name ${JSON.stringify(rawName)}`);
      const sizeText = header.slice(48, 58);
      if (!/^\d+ *$/.test(sizeText))
        throw new FormatError(format, start + 48, 'a bad size in a member header');
      const sizeBytes = decimal(sizeText, start + 48, format, 'size');
      const mtimeSec = decimal(header.slice(16, 28), start + 16, format, 'time');
      const part = stretch(reader, sizeBytes, 0, `the member ${name}`);
      yield { name, sizeBytes, mtimeSec, offset: reader.offset, data: part.data };
      await part.finish();
      // Members begin at even offsets; the last one's padding may be missing.
      if (sizeBytes % 2 === 1 && !(await reader.atEnd())) {
        const padding = await reader.read(1, 'padding');
        if (padding[0] !== 0x0a && padding[0] !== 0)
          throw new FormatError(format, reader.offset - 1, 'garbage between members');
      }
    }
  } finally {
    await reader.close();
  }
}
