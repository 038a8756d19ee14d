/**
 * Writes the ledger of one VLFS (layout.ts). Plain stores into memory, no system call for a request; it grows by doubling and reuses freed
 * slots, so it is bounded by what the kernel remembers. Without memory to grow it gives up: the VLFS then cannot be taken over.
 */
import type { Attr } from '../contract.ts';
import type { Handle, Node } from '../core.ts';
import { createJournal, type Journal } from './journal.ts';
import {
  BACKING_BIT,
  BACKING_DOUBLE,
  BACKING_WORD,
  CHANGING,
  DECIDED,
  GONE_DOUBLE,
  GONE_WORDS,
  HANDLE_DOUBLE,
  HANDLE_WORD,
  HEADER_BYTES,
  KIND,
  MAGIC,
  MODE_PRIVATE,
  MORE_AT,
  NAME_AT,
  NEXT_ID,
  NEXT_STACK_AT,
  NODE_DOUBLE,
  NODE_WORD,
  SLOT_BYTES,
  SPEC_AT,
  STACK_AT,
  STACK_BYTES,
  VERSION,
  WORD,
} from './layout.ts';

/** Memory that outlives the process. */
export interface LedgerMemory {
  readonly bytes: ArrayBuffer;
  /** The same memory, at least so long; null when there is no more. The former buffer shows the first part of it still. */
  grow(sizeBytes: number): ArrayBuffer | null;
}

export interface Ledger {
  readonly journal: Journal;
  /** No id below this is given out any more. */
  issued(nextId: number): void;
  /** The kernel got one more reference to the node. */
  known(node: Node): void;
  /** The number of references of a node that is in the ledger changed. */
  counted(node: Node): void;
  /** Its (first) name or identity changed. */
  changed(node: Node): void;
  /** It got, or lost, a further name; `key` is the name's among them. */
  named(node: Node, key: string, parent: Node, name: string): void;
  unnamed(node: Node, key: string): void;
  forgotten(node: Node): void;
  /** The last attributes of a node that loses, or is about to lose, its last name. */
  gone(node: Node, attr: Attr): void;
  /** While set, a node that loses its last name is still noted under it: the kernel may hold that name, and must be told so also by a later process. */
  keepNames(keep: boolean): void;
  /** The nodes that change during `work` are written after it. */
  together(work: () => void): void;
  /** A handle and its present backing; called again when that changes. */
  opened(fh: number, handle: Handle): void;
  closed(fh: number): void;
  /** The handle is not the answer to the request that is being executed: it counts although that request is repeated. */
  standing(fh: number): void;
  /** Handles below this number were given out. */
  handleNumbers(count: number): void;
  /** How the kernel does I/O by the handle: OPEN_MODE. */
  openMode(fh: number, mode: number): void;
  /** A backing file was registered for a node; returns what `unregistered` takes. */
  registered(node: number, backingId: number, privileged: boolean): number;
  unregistered(slot: number): void;
  setFuse(o: { fd: number; fuseMinor: number; features: number }): void;
  setSpec(json: string): void;
  /** The name of the stack that is shown. */
  setStack(name: string): void;
  /** A relayer to this stack begins. */
  setNextStack(name: string): void;
  /** From here on the next stack is shown, whatever happens to this process. */
  decide(): void;
  /** The kernel's names are (or may be) wrong until this is taken back. */
  setChanging(changing: boolean): void;
  /** The connection ended: nothing is to be taken over. */
  clear(): void;
}

export function createLedger(memory: LedgerMemory): Ledger {
  let words = new Uint32Array(memory.bytes);
  let doubles = new Float64Array(memory.bytes);
  let bytes = new Uint8Array(memory.bytes);
  let capacity = Math.floor((memory.bytes.byteLength - HEADER_BYTES) / SLOT_BYTES);
  let used = 0;
  let broken = false;
  let version = 0;
  const free: number[] = [];
  const handleSlots: number[] = [];
  /** Slots of further names and last attributes. */
  const furtherNames = new Map<Node, Map<string, number>>();
  const lastAttrs = new Map<Node, number>();
  let batch: Set<Node> | null = null;
  let nameless: Set<Node> | null = null;
  const journal = createJournal(memory.bytes);
  words[WORD.version] = VERSION;
  words[WORD.fuseFd] = -1;
  words[WORD.magic] = MAGIC;

  const word = (slot: number): number => (HEADER_BYTES + slot * SLOT_BYTES) >>> 2;
  const double = (slot: number): number => (HEADER_BYTES + slot * SLOT_BYTES) >>> 3;

  function giveUp(): void {
    broken = true;
    words[WORD.magic] = 0;
  }

  /** A free slot, or -1 when the ledger is broken. */
  function allocate(): number {
    const reused = free.pop();
    if (reused !== undefined) return reused;
    if (broken) return -1;
    if (used === capacity) {
      const grown = memory.grow(HEADER_BYTES + capacity * 2 * SLOT_BYTES);
      if (grown === null) {
        giveUp();
        return -1;
      }
      words = new Uint32Array(grown);
      doubles = new Float64Array(grown);
      bytes = new Uint8Array(grown);
      capacity = Math.floor((grown.byteLength - HEADER_BYTES) / SLOT_BYTES);
    }
    used++;
    words[WORD.slots] = used;
    return used - 1;
  }

  /** Frees a slot and those that its name goes on in. */
  function release(slot: number, named: boolean): void {
    const at = word(slot);
    words[at] = KIND.free;
    free.push(slot);
    if (!named) return;
    for (let more = words[at + NODE_WORD.more]!; more > 0; ) {
      const next = words[word(more - 1) + 1]!;
      words[word(more - 1)] = KIND.free;
      free.push(more - 1);
      more = next;
    }
  }

  /** Writes a name into a slot that has no kind yet. */
  function putName(slot: number, name: string): boolean {
    const { length } = name;
    let at = HEADER_BYTES + slot * SLOT_BYTES + NAME_AT;
    let end = at - NAME_AT + SLOT_BYTES;
    let link = word(slot) + NODE_WORD.more;
    words[word(slot) + NODE_WORD.nameBytes] = length;
    words[link] = 0;
    for (let i = 0; i < length; i++) {
      if (at === end) {
        const more = allocate();
        if (more < 0) return false;
        words[word(more) + 1] = 0;
        words[word(more)] = KIND.more;
        words[link] = more + 1;
        link = word(more) + 1;
        at = HEADER_BYTES + more * SLOT_BYTES + MORE_AT;
        end = at - MORE_AT + SLOT_BYTES;
      }
      bytes[at++] = name.charCodeAt(i);
    }
    return true;
  }

  function noteHandles(count: number): void {
    if (count > words[WORD.handles]!) words[WORD.handles] = count;
  }

  function putText(at: number, text: string): void {
    bytes.fill(0, at, at + STACK_BYTES);
    for (let i = 0; i < text.length && i < STACK_BYTES; i++) bytes[at + i] = text.charCodeAt(i);
  }

  /** A parent that the kernel does not know by itself is noted for its child. */
  function parentId(parent: Node | null): number {
    if (parent === null) return 0;
    if (parent.slot < 0 && parent.parent !== null) write(parent);
    return parent.id;
  }

  function write(node: Node): void {
    if (batch !== null && node.slot >= 0) {
      batch.add(node);
      return;
    }
    const parent = parentId(node.parent);
    const { successor } = node;
    if (successor !== null && successor.slot < 0) write(successor);
    const slot = allocate();
    if (slot < 0) return;
    if (!putName(slot, node.name)) return;
    const w = word(slot);
    const d = double(slot);
    doubles[d + NODE_DOUBLE.id] = node.id;
    doubles[d + NODE_DOUBLE.parent] = parent;
    doubles[d + NODE_DOUBLE.ino] = node.ino;
    doubles[d + NODE_DOUBLE.privIno] = node.privIno;
    doubles[d + NODE_DOUBLE.inoBase] = node.unit === null ? 0 : node.unit.inoBase;
    doubles[d + NODE_DOUBLE.successor] = successor === null ? 0 : successor.id;
    words[w + NODE_WORD.lookups] = node.lookups;
    words[w + NODE_WORD.entry] = node.entry;
    words[w + NODE_WORD.mode] = node.kind | (node.priv ? MODE_PRIVATE : 0);
    words[w + NODE_WORD.version] = ++version;
    words[w] = KIND.node;
    const former = node.slot;
    node.slot = slot;
    if (former >= 0) release(former, true);
    else for (const [key, place] of node.moreNames ?? []) writeName(node, key, place.parent, place.name);
  }

  function writeName(node: Node, key: string, parent: Node, name: string): void {
    let ofNode = furtherNames.get(node);
    if (ofNode?.has(key)) return;
    const id = parentId(parent);
    const slot = allocate();
    if (slot < 0 || !putName(slot, name)) return;
    doubles[double(slot) + NODE_DOUBLE.id] = node.id;
    doubles[double(slot) + NODE_DOUBLE.parent] = id;
    words[word(slot)] = KIND.name;
    if (ofNode === undefined) {
      ofNode = new Map();
      furtherNames.set(node, ofNode);
    }
    ofNode.set(key, slot);
  }

  return {
    journal,
    issued(nextId) {
      doubles[NEXT_ID] = nextId;
    },
    known(node) {
      if (node.slot >= 0) words[word(node.slot) + NODE_WORD.lookups] = node.lookups;
      else if (!broken && node.id !== 1) write(node);
    },
    counted(node) {
      if (node.slot >= 0) words[word(node.slot) + NODE_WORD.lookups] = node.lookups;
    },
    changed(node) {
      if (node.slot < 0) return;
      if (nameless !== null && node.parent === null) nameless.add(node);
      else write(node);
    },
    named(node, key, parent, name) {
      if (node.slot >= 0) writeName(node, key, parent, name);
    },
    unnamed(node, key) {
      const ofNode = furtherNames.get(node);
      const slot = ofNode?.get(key);
      if (slot === undefined) return;
      release(slot, true);
      ofNode!.delete(key);
      if (ofNode!.size === 0) furtherNames.delete(node);
    },
    forgotten(node) {
      batch?.delete(node);
      nameless?.delete(node);
      for (const slot of furtherNames.get(node)?.values() ?? []) release(slot, true);
      furtherNames.delete(node);
      const attr = lastAttrs.get(node);
      if (attr !== undefined) release(attr, false);
      lastAttrs.delete(node);
      if (node.slot >= 0) release(node.slot, true);
      node.slot = -1;
    },
    gone(node, attr) {
      if (node.slot < 0) return;
      const known = lastAttrs.get(node);
      const slot = known ?? allocate();
      if (slot < 0) return;
      const d = double(slot);
      doubles[d + GONE_DOUBLE.node] = node.id;
      doubles[d + GONE_DOUBLE.size] = attr.size;
      doubles[d + GONE_DOUBLE.blocks] = attr.blocks;
      doubles[d + GONE_DOUBLE.atimeSec] = attr.atimeSec;
      doubles[d + GONE_DOUBLE.mtimeSec] = attr.mtimeSec;
      doubles[d + GONE_DOUBLE.ctimeSec] = attr.ctimeSec;
      const w = word(slot) + GONE_WORDS;
      words[w] = attr.atimeNsec;
      words[w + 1] = attr.mtimeNsec;
      words[w + 2] = attr.ctimeNsec;
      words[w + 3] = attr.mode;
      words[w + 4] = attr.nlink;
      words[w + 5] = attr.uid;
      words[w + 6] = attr.gid;
      words[w + 7] = attr.rdev;
      words[w + 8] = attr.blksize;
      words[word(slot)] = KIND.gone;
      lastAttrs.set(node, slot);
    },
    keepNames(keep) {
      if (keep) {
        nameless ??= new Set();
        return;
      }
      const nodes = nameless ?? [];
      nameless = null;
      for (const node of nodes) if (node.slot >= 0) write(node);
    },
    together(work) {
      batch = new Set();
      try {
        work();
      } finally {
        const nodes = batch;
        batch = null;
        for (const node of nodes) write(node);
      }
    },
    opened(fh, handle) {
      const known = handleSlots[fh];
      const slot = known === undefined || known < 0 ? allocate() : known;
      if (slot < 0) return;
      const { backing } = handle;
      const w = word(slot);
      doubles[double(slot) + HANDLE_DOUBLE.fh] = fh;
      doubles[double(slot) + HANDLE_DOUBLE.node] = handle.node.id;
      words[w + HANDLE_WORD.flags] = handle.flags;
      let bits = 0;
      if (backing !== null) {
        bits = BACKING_BIT.present;
        if (backing.shared) bits |= BACKING_BIT.shared;
        if (backing.cached) bits |= BACKING_BIT.cached;
        if (backing.writable) bits |= BACKING_BIT.writable;
        if (backing.written) bits |= BACKING_BIT.written;
      }
      words[w + HANDLE_WORD.fd] = backing === null ? -1 : backing.fd;
      words[w + HANDLE_WORD.backing] = bits;
      if (slot === known) return;
      words[w + HANDLE_WORD.mode] = 0;
      words[w + HANDLE_WORD.uniqueLow] = journal.uniqueLow;
      words[w + HANDLE_WORD.uniqueHigh] = journal.uniqueHigh;
      words[w] = KIND.handle;
      handleSlots[fh] = slot;
      noteHandles(fh + 1);
    },
    closed(fh) {
      const slot = handleSlots[fh] ?? -1;
      if (slot < 0) return;
      handleSlots[fh] = -1;
      release(slot, false);
    },
    standing(fh) {
      const slot = handleSlots[fh] ?? -1;
      if (slot < 0) return;
      words[word(slot) + HANDLE_WORD.uniqueLow] = 0;
      words[word(slot) + HANDLE_WORD.uniqueHigh] = 0;
    },
    handleNumbers: noteHandles,
    openMode(fh, mode) {
      const slot = handleSlots[fh] ?? -1;
      if (slot >= 0) words[word(slot) + HANDLE_WORD.mode] = mode;
    },
    registered(node, backingId, privileged) {
      const slot = allocate();
      if (slot < 0) return -1;
      doubles[double(slot) + BACKING_DOUBLE.node] = node;
      words[word(slot) + BACKING_WORD.id] = backingId;
      words[word(slot) + BACKING_WORD.privileged] = privileged ? 1 : 0;
      words[word(slot)] = KIND.backing;
      return slot;
    },
    unregistered(slot) {
      if (slot >= 0) release(slot, false);
    },
    setFuse(o) {
      words[WORD.fuseMinor] = o.fuseMinor;
      words[WORD.features] = o.features;
      words[WORD.fuseFd] = o.fd;
    },
    setSpec(json) {
      const text = Buffer.from(json);
      if (text.length > HEADER_BYTES - SPEC_AT - 4) {
        giveUp();
        return;
      }
      bytes.set(text, SPEC_AT + 4);
      words[SPEC_AT >>> 2] = text.length;
    },
    setStack(name) {
      putText(STACK_AT, name);
      words[WORD.flags]! &= ~DECIDED;
    },
    setNextStack(name) {
      putText(NEXT_STACK_AT, name);
    },
    decide() {
      words[WORD.flags]! |= DECIDED;
    },
    setChanging(changing) {
      if (changing) words[WORD.flags]! |= CHANGING;
      else words[WORD.flags]! &= ~CHANGING;
    },
    clear() {
      giveUp();
    },
  };
}
