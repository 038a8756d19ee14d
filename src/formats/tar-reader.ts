/**
 * A streaming tar reader: v7, ustar, old GNU and PAX, long names, sparse files in every form GNU tar writes, extended attributes, raw
 * byte names, base-256 numbers. Memory does not grow with file sizes. Every name passes tar-paths.ts, so what comes out can
 * be unpacked safely below a directory. What it does not understand it refuses; it never guesses.
 */
import { FormatError, LIMITS, type Name, StrataError } from '../base/index.ts';
import { ByteReader, stretch } from './byte-reader.ts';
import type { ArchiveEntry, ArchiveItem, EntryType } from './contract.ts';
import { BLOCK_BYTES, isZeroBlock, parseTarHeader, type SparseExtent, type TarHeader } from './tar-header.ts';
import { normalisePath, type PathRules, pathChecker } from './tar-paths.ts';
import { emptyPax, PAX_MAX_BYTES, type PaxFields, parsePax, paxInteger, paxTime } from './tar-pax.ts';
import { checkSparse, gnuSparse, parseSparseMap, sparseMapInData } from './tar-sparse.ts';

export interface ReadTarOptions {
  /** Named in errors, e.g. 'nginx.deb: data.tar'. */
  format?: string;
  /** Bytes of data of all entries together; default LIMITS.layerBytes. */
  maxBytes?: number;
  /** Default LIMITS.layerEntries. */
  maxEntries?: number;
  isAllowedSymlinkParent?: PathRules['isAllowedSymlinkParent'];
}

const TYPES: Record<string, EntryType> = {
  '0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
};
/** (uid_t)-1 means "no change" to chown. */
const MAX_ID = 0xfffffffe;
/** Linux: 12 bits of major, 20 of minor. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;

/** What precedes an entry: GNU long names and local PAX records. */
interface Preface {
  longName?: string;
  longLink?: string;
  pax?: PaxFields;
}

function padding(bytes: number): number {
  return (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES;
}

/** The entries of a tar archive (not compressed; see decompress) in their order. */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
  options: ReadTarOptions = {},
): AsyncGenerator<ArchiveItem> {
  const format = options.format ?? 'tar';
  const maxBytes = options.maxBytes ?? LIMITS.layerBytes;
  const reader = new ByteReader(source, format);
  const check = pathChecker({
    format,
    maxEntries: options.maxEntries ?? LIMITS.layerEntries,
    isAllowedSymlinkParent: options.isAllowedSymlinkParent,
  });
  const global = emptyPax();
  let preface: Preface = {};
  let total = 0;
  try {
    for (;;) {
      const offset = reader.offset;
      const at = { format, offset };
      const block = await reader.read(BLOCK_BYTES, 'the tar archive (its end mark is missing)');
      if (isZeroBlock(block)) {
        if (Object.keys(preface).length > 0)
          throw new FormatError(format, offset, 'an extended header without an entry');
        await reader.drain();
        return;
      }
      const header = parseTarHeader(block, at);
      if (header.sizeBytes < 0) throw new FormatError(format, offset, 'a negative size');
      if (await readPreface(reader, header, preface, global, at)) continue;
      const type = TYPES[header.typeflag];
      if (type === undefined)
        throw new FormatError(format, offset, `an entry of unknown type ${JSON.stringify(header.typeflag)}`);
      const { entry, tapeBytes, extents } = makeEntry(header, type, preface, global, at);
      preface = {};
      let stored = tapeBytes;
      if (header.typeflag === 'S') {
        const sparse = await gnuSparse(reader, block, stored, at);
        entry.sizeBytes = sparse.realBytes;
        entry.sparse = sparse.extents;
      } else if (extents === 'map in data') {
        const map = await sparseMapInData(reader, stored, at);
        stored -= map.mapBytes;
        entry.sparse = checkSparse(map.extents, entry.sizeBytes, stored, format, offset);
      } else if (extents !== null)
        entry.sparse = checkSparse(extents, entry.sizeBytes, stored, format, offset);
      total += stored;
      if (total > maxBytes) throw new StrataError('LIMIT', `${format}: more than ${maxBytes} bytes of data`);
      check(entry, offset);
      const part = stretch(reader, stored, padding(tapeBytes), `the entry ${JSON.stringify(entry.path)}`);
      yield { entry, data: part.data };
      await part.finish();
    }
  } finally {
    await reader.close();
  }
}

/** Reads headers that only describe the next entry (or the archive). True when `header` was such a one. */
async function readPreface(
  reader: ByteReader,
  header: TarHeader,
  preface: Preface,
  global: PaxFields,
  at: { format: string; offset: number },
): Promise<boolean> {
  const size = header.sizeBytes;
  const body = async (maxBytes: number, what: string): Promise<Buffer> => {
    if (size > maxBytes)
      throw new StrataError('LIMIT', `${at.format}: ${what} of ${size} bytes (at byte ${at.offset})`);
    const bytes = await reader.read(size, what);
    await reader.skip(padding(size), what);
    return bytes;
  };
  switch (header.typeflag) {
    case 'L':
    case 'K': {
      const bytes = await body(LIMITS.pathBytes + 64, 'a long name');
      const nul = bytes.indexOf(0);
      const text = bytes.latin1Slice(0, nul === -1 ? bytes.length : nul);
      if (header.typeflag === 'L') preface.longName = text;
      else preface.longLink = text;
      return true;
    }
    case 'x':
    case 'X': {
      const dataOffset = reader.offset;
      preface.pax ??= emptyPax();
      parsePax(await body(PAX_MAX_BYTES, 'an extended header'), preface.pax, at.format, dataOffset);
      return true;
    }
    case 'g': {
      const dataOffset = reader.offset;
      parsePax(await body(PAX_MAX_BYTES, 'a global extended header'), global, at.format, dataOffset);
      return true;
    }
    case 'V':
      await reader.skip(size + padding(size), 'a volume label');
      return true;
    case 'M':
      throw new FormatError(at.format, at.offset, 'a part of a multi-volume archive, which is not supported');
    default:
      return false;
  }
}

type Extents = SparseExtent[] | 'map in data' | null;

/** The entry that a header and what precedes it describe. `tapeBytes`: bytes that follow in the archive, sparse map included. */
function makeEntry(
  header: TarHeader,
  type: EntryType,
  preface: Preface,
  global: PaxFields,
  at: { format: string; offset: number },
): { entry: ArchiveEntry; tapeBytes: number; extents: Extents } {
  const { format, offset } = at;
  const refuse = (what: string): never => {
    throw new FormatError(format, offset, what);
  };
  const pax = (key: string): string | undefined => preface.pax?.values.get(key) ?? global.values.get(key);
  const integer = (key: string, other: number): number => {
    const value = pax(key);
    return value === undefined ? other : paxInteger(value, format, offset, key);
  };

  const isSparse =
    preface.pax !== undefined &&
    (preface.pax.sparse00.length > 0 ||
      pax('GNU.sparse.size') !== undefined ||
      pax('GNU.sparse.major') !== undefined ||
      pax('GNU.sparse.map') !== undefined);
  const rawName =
    (isSparse ? pax('GNU.sparse.name') : undefined) ?? pax('path') ?? preface.longName ?? header.name;
  // v7 and GNU tars write directories as files with a slash at the end.
  const actualType = type === 'file' && rawName.endsWith('/') ? 'directory' : type;

  let tapeBytes = integer('size', header.sizeBytes);
  if (actualType === 'hardlink')
    tapeBytes = 0; // some tars put the file's size here; no data follows
  else if (actualType !== 'file' && tapeBytes !== 0) refuse('an entry with data that is no regular file');

  const uid = integer('uid', header.uid);
  const gid = integer('gid', header.gid);
  if (uid < 0 || uid > MAX_ID || gid < 0 || gid > MAX_ID) refuse('an owner out of range');
  const mtime = pax('mtime');
  const time = mtime === undefined ? { sec: header.mtimeSec, nsec: 0 } : paxTime(mtime, format, offset);
  const entry: ArchiveEntry = {
    path: normalisePath(rawName, format, offset, 'name'),
    type: actualType,
    mode: header.mode & 0o7777,
    uid,
    gid,
    sizeBytes: actualType === 'file' ? tapeBytes : 0,
    mtimeSec: time.sec,
    mtimeNsec: time.nsec,
  };
  const userName = pax('uname') ?? header.userName;
  const groupName = pax('gname') ?? header.groupName;
  if (userName !== '') entry.userName = userName;
  if (groupName !== '') entry.groupName = groupName;

  if (actualType === 'symlink' || actualType === 'hardlink') {
    const target = pax('linkpath') ?? preface.longLink ?? header.linkName;
    if (actualType === 'hardlink')
      entry.linkTarget = normalisePath(target, format, offset, 'hard link target');
    else {
      if (target === '' || target.includes('\0') || target.length > LIMITS.symlinkBytes)
        refuse('a symlink whose target is empty, too long or holds a NUL byte');
      entry.linkTarget = target as Name;
    }
  }
  if (actualType === 'char' || actualType === 'block') {
    const { devMajor, devMinor } = header;
    if (devMajor < 0 || devMajor > MAX_MAJOR || devMinor < 0 || devMinor > MAX_MINOR)
      refuse('a device number out of range');
    entry.devMajor = devMajor;
    entry.devMinor = devMinor;
  }
  if (preface.pax !== undefined && preface.pax.xattrs.size > 0) entry.xattrs = preface.pax.xattrs;

  if (!isSparse || actualType !== 'file') return { entry, tapeBytes, extents: null };
  const real = pax('GNU.sparse.realsize') ?? pax('GNU.sparse.size');
  if (real === undefined) refuse('a sparse file without its size');
  entry.sizeBytes = paxInteger(real!, format, offset, 'GNU.sparse.realsize');
  if (pax('GNU.sparse.major') !== undefined) {
    if (pax('GNU.sparse.major') !== '1' || (pax('GNU.sparse.minor') ?? '0') !== '0')
      refuse('a sparse file of an unknown version');
    return { entry, tapeBytes, extents: 'map in data' };
  }
  const map = pax('GNU.sparse.map');
  return {
    entry,
    tapeBytes,
    extents: map === undefined ? preface.pax!.sparse00 : parseSparseMap(map, format, offset),
  };
}
