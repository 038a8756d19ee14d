/**
 * A Debian package (deb(5)): ar members debian-binary, control.tar*, data.tar*. Control files are read, bounded by
 * LIMITS.controlBytes; the data is a stream, so a package of any size needs the same memory. Truncation, lying sizes, missing members and
 * garbage are FormatError with the offset; the package's name is in every message.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { FormatError, LIMITS, nameToText, StrataError } from '../base/index.ts';
import { type ArMember, readAr } from './ar.ts';
import { collect } from './byte-reader.ts';
import { type Compression, decompress } from './compression.ts';
import type { ArchiveItem, DebPackage } from './contract.ts';
import { parseStanzas } from './deb822.ts';
import { type ReadTarOptions, readTar } from './tar-reader.ts';

export interface OpenDebOptions {
  /** Named in errors; default: the file's name. */
  format?: string;
  /** Passed on to the reader of data.tar. */
  isAllowedSymlinkParent?: ReadTarOptions['isAllowedSymlinkParent'];
}

const CHUNK_BYTES = 256 * 1024;
const COMPRESSIONS: Record<string, Compression> = {
  '': 'none',
  '.gz': 'gz',
  '.xz': 'xz',
  '.zst': 'zst',
  '.lzma': 'lzma',
};

/** The compression of a member `control.tar*` or `data.tar*`. */
function memberCompression(member: string, base: string, format: string, offset: number): Compression {
  const compression = COMPRESSIONS[member.slice(base.length)];
  if (compression === undefined)
    throw new FormatError(format, offset, `the member ${member} is packed in a way that is not supported`, {
      hint: 'supported are gzip, xz, zstd, lzma and none',
    });
  return compression;
}

async function nextMember(
  members: AsyncGenerator<ArMember>,
  format: string,
  wanted: string,
  isWanted: (name: string) => boolean,
): Promise<ArMember> {
  for (;;) {
    const { value, done } = await members.next();
    if (done) throw new FormatError(format, 0, `the member ${wanted} is missing`);
    if (isWanted(value.name)) return value;
    // deb(5): members that begin with '_' are for others and passed over here.
    if (!value.name.startsWith('_'))
      throw new FormatError(format, value.offset, `the member ${wanted} is expected, here is ${value.name}`);
  }
}

async function readControl(
  member: ArMember,
  format: string,
): Promise<Map<string, { mode: number; bytes: Uint8Array }>> {
  const name = `${format}: ${member.name}`;
  const compression = memberCompression(member.name, 'control.tar', format, member.offset);
  if (member.sizeBytes > LIMITS.controlBytes)
    throw new StrataError('LIMIT', `${name}: larger than ${LIMITS.controlBytes} bytes`);
  const files = new Map<string, { mode: number; bytes: Uint8Array }>();
  const tar = decompress(member.data, { format: name, compression, maxBytes: LIMITS.controlBytes });
  for await (const { entry, data } of readTar(tar, { format: name, maxBytes: LIMITS.controlBytes })) {
    if (entry.type === 'directory' && entry.path === '') continue;
    if (
      entry.type !== 'file' ||
      !/^[A-Za-z0-9][A-Za-z0-9._+-]*$/.test(entry.path) ||
      entry.sparse !== undefined
    )
      throw new FormatError(name, 0, `the control file ${JSON.stringify(nameToText(entry.path))} is refused`);
    files.set(entry.path, { mode: entry.mode, bytes: await collect(data, LIMITS.controlBytes, name) });
  }
  return files;
}

/** Checks in the file that the data member ends in it, and that only another member follows. */
async function checkEnd(path: string, format: string, data: ArMember): Promise<void> {
  const file = await open(path);
  try {
    const available = (await file.stat()).size;
    const end = data.offset + data.sizeBytes;
    if (end > available) {
      throw new FormatError(
        format,
        available,
        `it ends ${end - available} bytes before the end of ${data.name}`,
        {
          hint: 'the file is truncated; get it again',
        },
      );
    }
    const next = end + (end % 2);
    if (next >= available) return;
    const header = Buffer.alloc(60);
    const { bytesRead } = await file.read(header, 0, header.length, next);
    if (bytesRead < header.length || header.latin1Slice(58) !== '`\n')
      throw new FormatError(format, next, `garbage after ${data.name}`);
  } finally {
    await file.close();
  }
}

/**
 * Opens a package from a file or from a stream. From a file, `entries()` may be called again and again, and no file stays open between
 * calls; from a stream it may be called once.
 */
export async function openDeb(
  source: string | AsyncIterable<Uint8Array>,
  options: OpenDebOptions = {},
): Promise<DebPackage> {
  const format = options.format ?? (typeof source === 'string' ? basename(source) : 'deb');
  const stream =
    typeof source === 'string' ? createReadStream(source, { highWaterMark: CHUNK_BYTES }) : source;
  const members = readAr(stream, { format });
  let keep = false;
  try {
    const first = await nextMember(members, format, 'debian-binary', (n) => n === 'debian-binary');
    const version = (await collect(first.data, 1024, `${format}: debian-binary`)).toString('latin1');
    if (!/^2\.\d+\n/.test(version))
      throw new FormatError(format, first.offset, `the package format ${JSON.stringify(version)} is not 2.x`);
    const control = await nextMember(members, format, 'control.tar', (n) => n.startsWith('control.tar'));
    const controlFiles = await readControl(control, format);
    const controlFile = controlFiles.get('control');
    if (controlFile === undefined)
      throw new FormatError(format, control.offset, 'the control file is missing');
    const stanzas = parseStanzas(controlFile.bytes, { format: `${format}: control` });
    if (stanzas.length !== 1)
      throw new FormatError(`${format}: control`, 0, `one stanza is expected, there are ${stanzas.length}`);
    const data = await nextMember(members, format, 'data.tar', (n) => n.startsWith('data.tar'));
    const compression = memberCompression(data.name, 'data.tar', format, data.offset);
    const { name, offset, sizeBytes } = data;
    if (typeof source === 'string') await checkEnd(source, format, data);
    const tarOptions = {
      format: `${format}: ${name}`,
      isAllowedSymlinkParent: options.isAllowedSymlinkParent,
    };

    async function* fromFile(path: string): AsyncGenerator<ArchiveItem> {
      if (sizeBytes === 0) throw new FormatError(format, offset, `the member ${name} is empty`);
      const file = createReadStream(path, {
        start: offset,
        end: offset + sizeBytes - 1,
        highWaterMark: CHUNK_BYTES,
      });
      yield* readTar(decompress(file, { format: tarOptions.format, compression }), tarOptions);
    }
    let used = false;
    async function* fromStream(): AsyncGenerator<ArchiveItem> {
      if (used) throw new Error('the entries of a package that is read from a stream can be read once');
      used = true;
      try {
        yield* readTar(decompress(data.data, { format: tarOptions.format, compression }), tarOptions);
        // Goes to the end of the archive: what follows the data must be sound as well.
        while (!(await members.next()).done);
      } finally {
        await members.return(undefined);
      }
    }
    keep = typeof source !== 'string';
    return {
      control: stanzas[0]!,
      controlFiles,
      entries: () => (typeof source === 'string' ? fromFile(source) : fromStream()),
    };
  } finally {
    if (!keep) await members.return(undefined);
  }
}
