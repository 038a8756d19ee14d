/**
 * The journal in the ledger's header: the one request of a VLFS that is being executed, how far it is, and its answer. The kernel sends what was not
 * answered again when a new process takes over; by this that process tells what was done already. Only what may not be done twice is noted.
 */
import {
  JOURNAL_AT,
  JOURNAL_BYTES,
  JOURNALS,
  NOTES_AT,
  PHASE,
  REPLY_AT,
  REPLY_BYTES,
  STEP,
} from './layout.ts';

/** A request that a former process began. */
export interface Unfinished {
  uniqueLow: number;
  uniqueHigh: number;
  phase: number;
  /** STEP */
  step: number;
  notes: number[];
  reply: Uint8Array;
}

export interface Journal {
  /** Of the request that is being executed. */
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  /** What a former process did of the request that is being executed, or null. */
  readonly resumed: Unfinished | null;
  /** Before a request. True: it was answered before, `resumed.reply` is the answer. The high half of `unique` without its top bit. */
  begin(uniqueLow: number, uniqueHigh: number): boolean;
  /** A visible change comes next. */
  step(what: string): void;
  /** What tells afterwards whether that change was made. */
  note(a: number, b: number, c: number, d: number): void;
  /** The answer that will be given; before it is. */
  answered(reply: Uint8Array, length: number): void;
  /** The answer was given. */
  end(): void;
  /** The request that was just answered is told so later: its record goes to an area of its own. Its number, or 0 when none is free. */
  setAside(): number;
  /** The answer that was set aside was given. */
  settle(area: number): void;
  /** The request waits for slow work and has changed nothing. */
  postpone(): void;
  /** Takes over what former processes left unanswered. */
  carry(unfinished: readonly Unfinished[]): void;
}

const AREA_WORDS = JOURNAL_BYTES >>> 2;
const FIRST = JOURNAL_AT >>> 2;

function stepOf(what: string): number {
  switch (what) {
    case 'create':
    case 'mkdir':
      return STEP.made;
    case 'create: replace whiteout':
      return STEP.settled;
    case 'rename':
      return STEP.rename;
    case 'exchange':
      return STEP.exchange;
    case 'link':
      return STEP.link;
    default:
      return STEP.prepared;
  }
}

export function createJournal(memory: ArrayBuffer): Journal {
  const words = new Uint32Array(memory, 0, (JOURNAL_AT + JOURNALS * JOURNAL_BYTES) >>> 2);
  const doubles = new Float64Array(memory, 0, (JOURNAL_AT + JOURNALS * JOURNAL_BYTES) >>> 3);
  const bytes = new Uint8Array(memory, 0, JOURNAL_AT + JOURNALS * JOURNAL_BYTES);
  /** Left by former processes, each with its area. */
  let carried: { area: number; what: Unfinished }[] = [];
  let area = 0;
  let at = FIRST;
  let renaming = false;

  const journal = {
    uniqueLow: 0,
    uniqueHigh: 0,
    resumed: null as Unfinished | null,
    begin(uniqueLow: number, uniqueHigh: number): boolean {
      journal.uniqueLow = uniqueLow;
      journal.uniqueHigh = uniqueHigh;
      journal.resumed = null;
      renaming = false;
      area = 0;
      at = FIRST;
      if (carried.length > 0) {
        const known = carried.find(
          ({ what }) => what.uniqueLow === uniqueLow && what.uniqueHigh === uniqueHigh,
        );
        if (known !== undefined) {
          area = known.area;
          at = FIRST + area * AREA_WORDS;
          journal.resumed = known.what;
          return known.what.phase === PHASE.answered;
        }
      }
      words[at] = uniqueLow;
      words[at + 1] = uniqueHigh;
      words[at + 3] = STEP.none;
      words[at + 2] = PHASE.begun;
      return false;
    },
    step(what: string): void {
      const step = stepOf(what);
      // What follows the move of a name does not undo it.
      if (renaming && step === STEP.prepared) return;
      renaming = step === STEP.rename || step === STEP.exchange;
      words[at + 3] = step;
    },
    note(a: number, b: number, c: number, d: number): void {
      const notes = (at * 4 + NOTES_AT) >>> 3;
      doubles[notes] = a;
      doubles[notes + 1] = b;
      doubles[notes + 2] = c;
      doubles[notes + 3] = d;
    },
    answered(reply: Uint8Array, length: number): void {
      if (length > REPLY_BYTES) return;
      const to = at * 4 + REPLY_AT;
      for (let i = 0; i < length; i++) bytes[to + i] = reply[i]!;
      words[at + 4] = length;
      words[at + 2] = PHASE.answered;
    },
    end(): void {
      words[at + 2] = PHASE.none;
      if (area > 0) carried = carried.filter((c) => c.area !== area);
      journal.resumed = null;
    },
    setAside(): number {
      if (area > 0) return 0;
      for (let free = 1; free < JOURNALS; free++) {
        const to = FIRST + free * AREA_WORDS;
        if (words[to + 2] !== PHASE.none || carried.some((one) => one.area === free)) continue;
        words.copyWithin(to + 3, at + 3, at + AREA_WORDS);
        words[to] = words[at]!;
        words[to + 1] = words[at + 1]!;
        words[to + 2] = words[at + 2]!;
        return free;
      }
      return 0;
    },
    settle(done: number): void {
      words[FIRST + done * AREA_WORDS + 2] = PHASE.none;
    },
    postpone(): void {
      if (area === 0) words[at + 2] = PHASE.none;
      journal.resumed = null;
      // What its slow work changes is no step of a former process.
      area = 0;
      at = FIRST;
    },
    carry(unfinished: readonly Unfinished[]): void {
      // The oldest were answered long ago, or nobody waits for them.
      const newest = [...unfinished]
        .sort((a, b) => a.uniqueHigh - b.uniqueHigh || a.uniqueLow - b.uniqueLow)
        .slice(1 - JOURNALS);
      carried = newest.map((what, i) => ({ area: i + 1, what }));
      for (const { area: to, what } of carried) {
        const w = FIRST + to * AREA_WORDS;
        words[w] = what.uniqueLow;
        words[w + 1] = what.uniqueHigh;
        words[w + 3] = what.step;
        words[w + 4] = what.reply.length;
        doubles.set(what.notes, (w * 4 + NOTES_AT) >>> 3);
        bytes.set(what.reply, w * 4 + REPLY_AT);
        words[w + 2] = what.phase;
      }
    },
  };
  return journal;
}
