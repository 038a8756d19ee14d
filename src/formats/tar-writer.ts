/**
 * A streaming tar writer: ustar where it suffices, PAX records for what ustar cannot hold (long names, large numbers, fractions of
 * seconds, extended attributes, sparse files in GNU's format 1.0). The same items give the same bytes.
 */
import { StrataError } from '../base/index.ts';
import type { ArchiveEntry, ArchiveItem, EntryType } from './contract.ts';
import { BLOCK_BYTES, fitsOctal, formatTarHeader } from './tar-header.ts';
import { formatPaxRecord } from './tar-pax.ts';

const TYPEFLAGS: Record<EntryType, string> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;

function zeros(bytes: number): Buffer {
  return Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES);
}

/** Name and prefix of a ustar header, or null when the path does not fit. */
function splitName(path: string): { name: string; prefix: string } | null {
  if (path.length <= NAME_BYTES) return { name: path, prefix: '' };
  for (let slash = path.indexOf('/'); slash !== -1; slash = path.indexOf('/', slash + 1)) {
    const rest = path.length - slash - 1;
    if (slash <= PREFIX_BYTES && slash > 0 && rest > 0 && rest <= NAME_BYTES)
      return { name: path.slice(slash + 1), prefix: path.slice(0, slash) };
  }
  return null;
}

function paxTimeText(sec: number, nsec: number): string {
  if (nsec === 0) return String(sec);
  const fraction = (n: number): string => String(n).padStart(9, '0').replace(/0+$/, '');
  if (sec >= 0) return `${sec}.${fraction(nsec)}`;
  return `-${-sec - 1}.${fraction(1e9 - nsec)}`;
}

/** The map that stands before a sparse file's data, padded to a block. GNU tar wants an empty extent at the end when the file ends in a hole. */
function sparseMap(entry: ArchiveEntry): Buffer {
  const extents = [...entry.sparse!];
  const last = extents.at(-1);
  if (last === undefined || last.offset + last.length < entry.sizeBytes)
    extents.push({ offset: entry.sizeBytes, length: 0 });
  const lines = [String(extents.length)];
  for (const extent of extents) lines.push(String(extent.offset), String(extent.length));
  const text = Buffer.from(`${lines.join('\n')}\n`, 'latin1');
  return Buffer.concat([text, zeros(text.length)]);
}

/** Header blocks of one entry; `dataBytes` follow them (a sparse map included). */
function headerBlocks(entry: ArchiveEntry, dataBytes: number): Buffer {
  const records: Buffer[] = [];
  const add = (key: string, value: string | Uint8Array): void => {
    records.push(formatPaxRecord(key, value));
  };
  const number = (key: string, value: number, width: number): number => {
    if (fitsOctal(value, width)) return value;
    add(key, String(value));
    return 0;
  };
  const path = entry.path === '' ? './' : entry.type === 'directory' ? `${entry.path}/` : entry.path;
  let split = splitName(path);
  if (entry.sparse !== undefined) {
    add('GNU.sparse.major', '1');
    add('GNU.sparse.minor', '0');
    add('GNU.sparse.name', entry.path);
    add('GNU.sparse.realsize', String(entry.sizeBytes));
    split = { name: `GNUSparseFile.0/${entry.path}`.slice(0, NAME_BYTES), prefix: '' };
  } else if (split === null) {
    add('path', path);
    split = { name: path.slice(0, NAME_BYTES), prefix: '' };
  }
  const link = entry.linkTarget ?? '';
  if (link.length > NAME_BYTES) add('linkpath', link);
  const text = (key: string, value: string): string => {
    if (value.length < 32) return value;
    add(key, value);
    return '';
  };
  const wholeTime = entry.mtimeNsec === 0 && fitsOctal(entry.mtimeSec, 12);
  if (!wholeTime) add('mtime', paxTimeText(entry.mtimeSec, entry.mtimeNsec));
  for (const [name, value] of entry.xattrs ?? []) {
    if (name.includes('=')) {
      const encoded = name.replace(/[%=]/g, (c) => `%${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
      add(`LIBARCHIVE.xattr.${encoded}`, Buffer.from(value).toString('base64'));
    } else add(`SCHILY.xattr.${name}`, value);
  }
  const main = formatTarHeader({
    ...split,
    mode: entry.mode & 0o7777,
    uid: number('uid', entry.uid, 8),
    gid: number('gid', entry.gid, 8),
    sizeBytes: number('size', dataBytes, 12),
    mtimeSec: wholeTime || fitsOctal(entry.mtimeSec, 12) ? entry.mtimeSec : 0,
    typeflag: TYPEFLAGS[entry.type],
    linkName: link.slice(0, NAME_BYTES),
    userName: text('uname', entry.userName ?? ''),
    groupName: text('gname', entry.groupName ?? ''),
    devMajor: entry.devMajor ?? 0,
    devMinor: entry.devMinor ?? 0,
  });
  if (records.length === 0) return main;
  const body = Buffer.concat(records);
  const slash = entry.path.lastIndexOf('/');
  const extended = formatTarHeader({
    name: `PaxHeaders/${entry.path.slice(slash + 1)}`.slice(0, NAME_BYTES),
    prefix: '',
    mode: 0o644,
    uid: 0,
    gid: 0,
    sizeBytes: body.length,
    mtimeSec: 0,
    typeflag: 'x',
    linkName: '',
    userName: '',
    groupName: '',
    devMajor: 0,
    devMinor: 0,
  });
  return Buffer.concat([extended, body, zeros(body.length), main]);
}

/** The bytes of a tar archive of `items`. Throws when an item's data is not as long as its entry says. */
export async function* writeTar(
  items: AsyncIterable<ArchiveItem> | Iterable<ArchiveItem>,
): AsyncGenerator<Uint8Array> {
  for await (const { entry, data } of items) {
    const map = entry.sparse === undefined ? null : sparseMap(entry);
    const stored =
      entry.type !== 'file'
        ? 0
        : entry.sparse === undefined
          ? entry.sizeBytes
          : entry.sparse.reduce((sum, extent) => sum + extent.length, 0);
    const dataBytes = stored + (map?.length ?? 0);
    yield headerBlocks(entry, dataBytes);
    if (map !== null) yield map;
    let written = 0;
    if (stored > 0) {
      for await (const piece of data) {
        written += piece.length;
        if (written > stored) break;
        yield piece;
      }
    }
    if (written !== stored)
      throw new StrataError('IO', `${entry.path} changed its size while it was archived`, {
        hint: 'repeat the command when nothing writes to the file',
      });
    yield zeros(dataBytes);
  }
  yield Buffer.alloc(2 * BLOCK_BYTES);
}
