/** Reads a ledger that a killed process left. Nothing in it is trusted beyond its magic and version: lengths and slots are checked. */

import type { Attr } from '../contract.ts';
import { newAttr } from '../nodes/attributes.ts';
import type { Unfinished } from './journal.ts';
import {
  BACKING_DOUBLE,
  BACKING_WORD,
  CHANGING,
  DECIDED,
  GONE_DOUBLE,
  GONE_WORDS,
  HANDLE_DOUBLE,
  HANDLE_WORD,
  HEADER_BYTES,
  JOURNAL_AT,
  JOURNAL_BYTES,
  JOURNALS,
  KIND,
  MAGIC,
  MORE_AT,
  NAME_AT,
  NEXT_ID,
  NEXT_STACK_AT,
  NODE_DOUBLE,
  NODE_WORD,
  NOTES_AT,
  PHASE,
  REPLY_AT,
  REPLY_BYTES,
  SLOT_BYTES,
  SPEC_AT,
  STACK_AT,
  STACK_BYTES,
  VERSION,
  WORD,
} from './layout.ts';

/** Of one VLFS; more is damage. */
export const MOST_HANDLES = 2 ** 24;

export interface NodeRecord {
  id: number;
  parent: number;
  name: string;
  ino: number;
  privIno: number;
  inoBase: number;
  successor: number;
  lookups: number;
  entry: number;
  /** S_IFMT bits and MODE_PRIVATE. */
  mode: number;
  version: number;
}

export interface HandleRecord {
  fh: number;
  node: number;
  flags: number;
  fd: number;
  /** BACKING_BIT */
  backing: number;
  /** OPEN_MODE */
  mode: number;
}

export interface LedgerContent {
  fuseFd: number;
  fuseMinor: number;
  features: number;
  changing: boolean;
  /** A relayer was decided, and may not be in place yet. */
  decided: boolean;
  stack: string;
  spec: string;
  nextId: number;
  nodes: Map<number, NodeRecord>;
  names: { node: number; parent: number; name: string }[];
  gone: Map<number, Attr>;
  handles: HandleRecord[];
  /** Numbers of handles that were ever given out. */
  handleNumbers: number;
  backings: { node: number; id: number; privileged: boolean }[];
  unfinished: Unfinished[];
}

/** The header's part: whose ledger it is. Null when it is none of this version. */
export function readLedgerHeader(
  memory: ArrayBuffer,
): Pick<
  LedgerContent,
  'fuseFd' | 'fuseMinor' | 'features' | 'changing' | 'decided' | 'stack' | 'spec' | 'nextId'
> | null {
  if (memory.byteLength < HEADER_BYTES) return null;
  const words = new Uint32Array(memory, 0, HEADER_BYTES >>> 2);
  if (words[WORD.magic] !== MAGIC || words[WORD.version] !== VERSION) return null;
  const bytes = Buffer.from(memory, 0, HEADER_BYTES);
  const specBytes = words[SPEC_AT >>> 2]!;
  if (specBytes > HEADER_BYTES - SPEC_AT - 4) return null;
  const decided = (words[WORD.flags]! & DECIDED) !== 0;
  const stackAt = decided ? NEXT_STACK_AT : STACK_AT;
  return {
    fuseFd: words[WORD.fuseFd]! | 0,
    fuseMinor: words[WORD.fuseMinor]!,
    features: words[WORD.features]!,
    changing: (words[WORD.flags]! & CHANGING) !== 0,
    decided,
    stack: bytes.latin1Slice(stackAt, stackAt + STACK_BYTES).replace(/\0+$/, ''),
    spec: bytes.toString('utf8', SPEC_AT + 4, SPEC_AT + 4 + specBytes),
    nextId: new Float64Array(memory, 0, NEXT_ID + 1)[NEXT_ID]!,
  };
}

/** All of it, or null when it is no ledger of this version. */
export function readLedger(memory: ArrayBuffer): LedgerContent | null {
  const header = readLedgerHeader(memory);
  if (header === null) return null;
  const words = new Uint32Array(memory);
  const doubles = new Float64Array(memory);
  const bytes = Buffer.from(memory);
  const count = Math.min(words[WORD.slots]!, Math.floor((memory.byteLength - HEADER_BYTES) / SLOT_BYTES));
  const word = (slot: number): number => (HEADER_BYTES + slot * SLOT_BYTES) >>> 2;
  const unfinished = readJournals(words, doubles, bytes);
  const begun = new Set(
    unfinished.filter((u) => u.phase === PHASE.begun).map((u) => `${u.uniqueHigh}:${u.uniqueLow}`),
  );
  const content: LedgerContent = {
    ...header,
    nodes: new Map(),
    names: [],
    gone: new Map(),
    handles: [],
    handleNumbers: Math.min(words[WORD.handles]!, MOST_HANDLES),
    backings: [],
    unfinished,
  };

  function nameOf(slot: number): string {
    const length = Math.min(words[word(slot) + NODE_WORD.nameBytes]!, 255);
    const from = HEADER_BYTES + slot * SLOT_BYTES;
    let name = bytes.latin1Slice(from + NAME_AT, from + Math.min(NAME_AT + length, SLOT_BYTES));
    for (let more = words[word(slot) + NODE_WORD.more]!; name.length < length; ) {
      if (more === 0 || more > count) return '';
      const at = HEADER_BYTES + (more - 1) * SLOT_BYTES;
      const rest = Math.min(length - name.length, SLOT_BYTES - MORE_AT);
      name += bytes.latin1Slice(at + MORE_AT, at + MORE_AT + rest);
      more = words[(at >>> 2) + 1]!;
    }
    return name;
  }

  for (let slot = 0; slot < count; slot++) {
    const w = word(slot);
    const d = w >>> 1;
    switch (words[w]) {
      case KIND.node: {
        const id = doubles[d + NODE_DOUBLE.id]!;
        const version = words[w + NODE_WORD.version]!;
        // A change that was cut off leaves both records: the later one counts.
        const other = content.nodes.get(id);
        if (other !== undefined && other.version > version) break;
        content.nodes.set(id, {
          id,
          parent: doubles[d + NODE_DOUBLE.parent]!,
          name: nameOf(slot),
          ino: doubles[d + NODE_DOUBLE.ino]!,
          privIno: doubles[d + NODE_DOUBLE.privIno]!,
          inoBase: doubles[d + NODE_DOUBLE.inoBase]!,
          successor: doubles[d + NODE_DOUBLE.successor]!,
          lookups: words[w + NODE_WORD.lookups]!,
          entry: words[w + NODE_WORD.entry]!,
          mode: words[w + NODE_WORD.mode]!,
          version,
        });
        break;
      }
      case KIND.name:
        content.names.push({
          node: doubles[d + NODE_DOUBLE.id]!,
          parent: doubles[d + NODE_DOUBLE.parent]!,
          name: nameOf(slot),
        });
        break;
      case KIND.handle: {
        const unique = `${words[w + HANDLE_WORD.uniqueHigh]}:${words[w + HANDLE_WORD.uniqueLow]}`;
        // Its open was not answered and will be asked for again.
        if (begun.has(unique)) break;
        content.handles.push({
          fh: doubles[d + HANDLE_DOUBLE.fh]!,
          node: doubles[d + HANDLE_DOUBLE.node]!,
          flags: words[w + HANDLE_WORD.flags]!,
          fd: words[w + HANDLE_WORD.fd]! | 0,
          backing: words[w + HANDLE_WORD.backing]!,
          mode: words[w + HANDLE_WORD.mode]!,
        });
        break;
      }
      case KIND.gone:
        content.gone.set(doubles[d + GONE_DOUBLE.node]!, goneAttr(words, doubles, w));
        break;
      case KIND.backing:
        content.backings.push({
          node: doubles[d + BACKING_DOUBLE.node]!,
          id: words[w + BACKING_WORD.id]!,
          privileged: words[w + BACKING_WORD.privileged] === 1,
        });
        break;
    }
  }
  return content;
}

function goneAttr(words: Uint32Array, doubles: Float64Array, w: number): Attr {
  const d = w >>> 1;
  const attr = newAttr();
  attr.size = doubles[d + GONE_DOUBLE.size]!;
  attr.blocks = doubles[d + GONE_DOUBLE.blocks]!;
  attr.atimeSec = doubles[d + GONE_DOUBLE.atimeSec]!;
  attr.mtimeSec = doubles[d + GONE_DOUBLE.mtimeSec]!;
  attr.ctimeSec = doubles[d + GONE_DOUBLE.ctimeSec]!;
  const at = w + GONE_WORDS;
  attr.atimeNsec = words[at]!;
  attr.mtimeNsec = words[at + 1]!;
  attr.ctimeNsec = words[at + 2]!;
  attr.mode = words[at + 3]!;
  attr.nlink = words[at + 4]!;
  attr.uid = words[at + 5]!;
  attr.gid = words[at + 6]!;
  attr.rdev = words[at + 7]!;
  attr.blksize = words[at + 8]!;
  return attr;
}

function readJournals(words: Uint32Array, doubles: Float64Array, bytes: Buffer): Unfinished[] {
  const found: Unfinished[] = [];
  for (let i = 0; i < JOURNALS; i++) {
    const at = JOURNAL_AT + i * JOURNAL_BYTES;
    const w = at >>> 2;
    const phase = words[w + 2]!;
    if (phase !== PHASE.begun && phase !== PHASE.answered) continue;
    const length = phase === PHASE.answered ? Math.min(words[w + 4]!, REPLY_BYTES) : 0;
    const notes = (at + NOTES_AT) >>> 3;
    found.push({
      uniqueLow: words[w]!,
      uniqueHigh: words[w + 1]!,
      phase,
      step: words[w + 3]!,
      notes: [...doubles.subarray(notes, notes + 4)],
      reply: Uint8Array.from(bytes.subarray(at + REPLY_AT, at + REPLY_AT + length)),
    });
  }
  return found;
}
