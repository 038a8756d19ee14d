/**
 * The ledger: memory that outlives the process, in which the serving thread notes what the kernel holds of a VLFS: nodes, names, open
 * handles, registered backing files, and the request that is being executed. A header, then slots of 128 bytes. Each record is filled first
 * and gets its kind last, so one that a kill cut off is free. Numbers are little-endian; u64 are doubles (safe integers).
 */

export const MAGIC = 0x4c525453; // 'STRL'
export const VERSION = 1;

/** Bytes before the first slot: fields, journal areas, and from SPEC_AT what the VLFS is made of (u32 length, JSON). */
export const HEADER_BYTES = 16384;
export const SLOT_BYTES = 128;
export const SPEC_AT = 4096;
export const FIRST_BYTES = HEADER_BYTES + 128 * SLOT_BYTES;

/** u32 words of the header. */
export const WORD = {
  magic: 0,
  version: 1,
  /** Slots that were ever used. */
  slots: 2,
  /** Descriptor of the connection. */
  fuseFd: 3,
  /** CHANGING */
  flags: 4,
  fuseMinor: 5,
  features: 6,
  /** Numbers of handles (fh) that were ever given out. */
  handles: 7,
} as const;

/** Names are being made stale; until it is cleared the kernel may hold wrong ones. */
export const CHANGING = 1;
/** A relayer was decided: the next stack counts, and the private files that were written with it. */
export const DECIDED = 2;

/** The double with the next node id, as an index of doubles. */
export const NEXT_ID = 4;
/** Name of the stack whose names the kernel holds: bytes, NUL-padded. */
export const STACK_AT = 64;
export const STACK_BYTES = 64;
/** The stack of the relayer under way. */
export const NEXT_STACK_AT = 128;

/**
 * Journal areas: the first for the request being executed, the others for what former processes left unanswered. Words: low and high half of
 * `unique`, phase, step, length of the reply; from NOTES_AT four doubles, from REPLY_AT the reply.
 */
export const JOURNAL_AT = 1024;
export const JOURNAL_BYTES = 640;
export const JOURNALS = 4;
export const NOTES_AT = 32;
export const REPLY_AT = 128;
export const REPLY_BYTES = 512;

export const PHASE = { none: 0, begun: 1, answered: 2 } as const;

/** How far the visible part of a request was when it announced a change last. */
export const STEP = { none: 0, prepared: 1, made: 2, settled: 3, rename: 4, exchange: 5, link: 6 } as const;

export const KIND = { free: 0, node: 1, name: 2, more: 3, handle: 4, gone: 5, backing: 6 } as const;

/** Words (u32) of a slot; the name of a node or of a further name begins at NAME_AT and goes on in `more` slots from MORE_AT. */
export const NODE_WORD = { lookups: 14, entry: 15, mode: 16, nameBytes: 17, more: 18, version: 19 } as const;
/** Doubles of a slot. */
export const NODE_DOUBLE = { id: 1, parent: 2, ino: 3, privIno: 4, inoBase: 5, successor: 6 } as const;
export const NAME_AT = 80;
export const MORE_AT = 8;
/** Bits of NODE_WORD.mode above S_IFMT. */
export const MODE_PRIVATE = 1 << 16;

export const HANDLE_DOUBLE = { fh: 1, node: 2 } as const;
export const HANDLE_WORD = { flags: 6, fd: 7, backing: 8, mode: 9, uniqueLow: 10, uniqueHigh: 11 } as const;
export const BACKING_BIT = { present: 1, shared: 2, cached: 4, writable: 8, written: 16 } as const;
/** How the kernel does I/O by a handle. */
export const OPEN_MODE = { direct: 0, passthrough: 1, cached: 2 } as const;

export const GONE_DOUBLE = { node: 1, size: 2, blocks: 3, atimeSec: 4, mtimeSec: 5, ctimeSec: 6 } as const;
/** First of nine words: atimeNsec, mtimeNsec, ctimeNsec, mode, nlink, uid, gid, rdev, blksize. */
export const GONE_WORDS = 14;

export const BACKING_DOUBLE = { node: 1 } as const;
export const BACKING_WORD = { id: 4, privileged: 5 } as const;
