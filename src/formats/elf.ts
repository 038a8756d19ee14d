/**
 * The dynamic section of ELF files (System V ABI, chapter 5): which libraries a file needs, and the name it has as a library. Both
 * classes, both byte orders. The caller gives bytes on demand; every offset and count is checked, so hostile files end in a FormatError.
 */
import { FormatError } from '../base/index.ts';

export interface ElfDynamic {
  /** DT_SONAME, or null. */
  soname: string | null;
  /** DT_NEEDED, in their order. */
  needed: string[];
  /** e_machine, e.g. 62 for x86-64; libraries satisfy only files of the same machine and class. */
  machine: number;
  class: 32 | 64;
  /** e_type: 2 executable, 3 shared object (or position-independent executable). */
  type: number;
}

/** `length` bytes at `offset`, fewer at the end of the file. */
export type ReadAt = (offset: number, length: number) => Uint8Array;

const FORMAT = 'ELF';
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const DT_NULL = 0;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_STRSZ = 10;
const DT_SONAME = 14;

const MAX_SEGMENTS = 4096;
const MAX_DYNAMIC_BYTES = 1 << 20;
const MAX_NAME_BYTES = 4096;

/** True for the first four bytes of an ELF file. */
export function isElf(head: Uint8Array): boolean {
  return head.length >= 4 && head[0] === 0x7f && head[1] === 0x45 && head[2] === 0x4c && head[3] === 0x46;
}

/** One file's byte order and word size, over checked reads. */
interface Reader {
  wide: boolean;
  view(offset: number, length: number, what: string): DataView;
  u16(view: DataView, at: number): number;
  u32(view: DataView, at: number): number;
  /** An address, offset or size; FormatError above 2^53. */
  word(view: DataView, at: number): number;
  /** A dynamic tag; large ones lose precision, which no small one equals. */
  tag(view: DataView, at: number): number;
}

function openReader(readAt: ReadAt, ident: Uint8Array): Reader {
  const wide = ident[4] === 2;
  const little = ident[5] === 1;
  if ((ident[4] !== 1 && !wide) || (ident[5] !== 2 && !little)) {
    throw new FormatError(FORMAT, 4, 'an unknown class or byte order');
  }
  return {
    wide,
    view(offset, length, what) {
      const bytes = readAt(offset, length);
      if (bytes.length < length) throw new FormatError(FORMAT, offset, `${what} lies outside the file`);
      return new DataView(bytes.buffer, bytes.byteOffset, length);
    },
    u16: (view, at) => view.getUint16(at, little),
    u32: (view, at) => view.getUint32(at, little),
    word(view, at) {
      if (!wide) return view.getUint32(at, little);
      const value = view.getBigUint64(at, little);
      if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new FormatError(FORMAT, 0, 'an impossible offset');
      return Number(value);
    },
    tag: (view, at) => (wide ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little)),
  };
}

/**
 * Reads the dynamic section. null when the file is not ELF, or is neither executable nor shared object, or has no dynamic section (a
 * static program). Throws FormatError for a damaged one.
 */
export function parseElfDynamic(readAt: ReadAt): ElfDynamic | null {
  const ident = readAt(0, 16);
  if (ident.length < 16 || !isElf(ident)) return null;
  const reader = openReader(readAt, Uint8Array.from(ident));
  const { wide, u16, u32, word } = reader;
  const header = reader.view(0, wide ? 64 : 52, 'the header');
  const type = u16(header, 16);
  const machine = u16(header, 18);
  if (type !== 2 && type !== 3) return null;
  const segmentsAt = word(header, wide ? 32 : 28);
  const segmentBytes = u16(header, wide ? 54 : 42);
  const segmentCount = u16(header, wide ? 56 : 44);
  if (segmentCount === 0) return null;
  if (segmentBytes < (wide ? 56 : 32) || segmentCount > MAX_SEGMENTS) {
    throw new FormatError(FORMAT, segmentsAt, 'an impossible program header table');
  }
  const table = reader.view(segmentsAt, segmentBytes * segmentCount, 'the program header table');
  const loads: { fileAt: number; address: number; bytes: number }[] = [];
  let dynamic: { fileAt: number; bytes: number } | null = null;
  for (let i = 0; i < segmentCount; i++) {
    const at = i * segmentBytes;
    const kind = u32(table, at);
    if (kind !== PT_LOAD && kind !== PT_DYNAMIC) continue;
    const fileAt = word(table, at + (wide ? 8 : 4));
    const bytes = word(table, at + (wide ? 32 : 16));
    if (kind === PT_DYNAMIC) dynamic = { fileAt, bytes };
    else loads.push({ fileAt, address: word(table, at + (wide ? 16 : 8)), bytes });
  }
  const result: ElfDynamic = { soname: null, needed: [], machine, class: wide ? 64 : 32, type };
  if (dynamic === null) return null;
  const section = readSection(reader, dynamic);
  const load = loads.find((l) => section.strings >= l.address && section.strings < l.address + l.bytes);
  if (load === undefined) {
    if (section.needed.length === 0 && section.soname === null) return result;
    throw new FormatError(FORMAT, dynamic.fileAt, 'the string table lies in no segment');
  }
  const stringsAt = load.fileAt + (section.strings - load.address);
  const text = (offset: number): string => readText(readAt, stringsAt, section.stringBytes, offset);
  result.needed = section.needed.map(text);
  if (section.soname !== null) result.soname = text(section.soname);
  return result;
}

/** What the dynamic section says, string offsets not yet looked up. `strings` is an address. */
interface Section {
  needed: number[];
  soname: number | null;
  strings: number;
  stringBytes: number;
}

function readSection(reader: Reader, place: { fileAt: number; bytes: number }): Section {
  const { wide } = reader;
  const step = wide ? 16 : 8;
  if (place.bytes > MAX_DYNAMIC_BYTES)
    throw new FormatError(FORMAT, place.fileAt, 'too large a dynamic section');
  const view = reader.view(place.fileAt, place.bytes, 'the dynamic section');
  const section: Section = { needed: [], soname: null, strings: 0, stringBytes: 0 };
  for (let at = 0; at + step <= place.bytes; at += step) {
    const tag = reader.tag(view, at);
    if (tag === DT_NULL) break;
    if (tag === DT_NEEDED) section.needed.push(reader.word(view, at + step / 2));
    else if (tag === DT_SONAME) section.soname = reader.word(view, at + step / 2);
    else if (tag === DT_STRTAB) section.strings = reader.word(view, at + step / 2);
    else if (tag === DT_STRSZ) section.stringBytes = reader.word(view, at + step / 2);
  }
  return section;
}

/** The NUL-terminated string at `offset` of the string table. */
function readText(readAt: ReadAt, tableAt: number, tableBytes: number, offset: number): string {
  if (offset >= tableBytes)
    throw new FormatError(FORMAT, tableAt, `the string ${offset} lies outside its table`);
  const bytes = readAt(tableAt + offset, Math.min(MAX_NAME_BYTES, tableBytes - offset));
  const end = bytes.indexOf(0);
  if (end < 0) throw new FormatError(FORMAT, tableAt + offset, 'a string without end');
  return Buffer.from(bytes.buffer, bytes.byteOffset, end).toString('latin1');
}
