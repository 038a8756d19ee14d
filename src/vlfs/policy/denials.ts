/**
 * What a policy denied: one JSON value a line, appended. The first denial of a path is written at once, its repeats as a count at 10, 100, 1000 ...
 * and at the end. Bounded: so many lines a second, paths that are counted, and bytes (then the file becomes FILE.1 and a new one begins),
 * because a hostile appliance decides how often it is denied.
 */
import { nameFromText, nameToText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  newStat,
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_NOFOLLOW,
  O_WRONLY,
  openat,
  renameat2,
  write,
} from '../../sys/index.ts';

/** One line of the file. */
export interface Denial {
  /** When it was written, ISO 8601. */
  time: string;
  /** The first denial of this path that is counted here. */
  since: string;
  path: string;
  /** The pattern, or `nonclonable`. */
  rule: string;
  /** Denials since `since`. */
  count: number;
  /** Of who asked first. */
  uid: number;
  pid: number;
}

/** Instead of a Denial: so many paths were denied for the first time and not written. */
export interface Suppressed {
  time: string;
  suppressed: number;
}

export interface DenialLog {
  note(path: string, rule: string, caller: { uid: number; pid: number }): void;
  close(): void;
}

export interface DenialLimits {
  mostBytes: number;
  mostPaths: number;
  linesPerSecond: number;
  burst: number;
}

const LIMITS: DenialLimits = { mostBytes: 1 << 20, mostPaths: 1024, linesPerSecond: 20, burst: 200 };

interface Counted {
  denial: Denial;
  /** The count that is in the file. */
  written: number;
}

/** Opens no file before the first denial; a file that cannot be written loses lines, never a request. */
export function openDenialLog(file: string, limits: DenialLimits = LIMITS, now = Date.now): DenialLog {
  const path = nameFromText(file);
  const stat = newStat();
  let fd = -1;
  let bytes = 0;
  /** The longest not denied first. */
  const counted = new Map<string, Counted>();
  let credit = limits.burst;
  let creditAtMs = now();
  let suppressed = 0;

  const mayWrite = (): boolean => {
    const ms = now();
    credit = Math.min(limits.burst, credit + (Math.max(0, ms - creditAtMs) / 1000) * limits.linesPerSecond);
    creditAtMs = ms;
    if (credit < 1) return false;
    credit--;
    return true;
  };
  const open = (): number => {
    if (fd >= 0 && bytes >= limits.mostBytes) {
      close(fd);
      fd = -1;
      renameat2(AT_FDCWD, path, AT_FDCWD, `${path}.1`);
    }
    if (fd >= 0) return fd;
    fd = openat(AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o600);
    bytes = fd >= 0 && fstat(fd, stat) === 0 ? stat.size : 0;
    return fd;
  };
  const append = (line: Denial | Suppressed): void => {
    const text = Buffer.from(`${JSON.stringify(line)}\n`);
    const to = open();
    if (to >= 0 && write(to, text, text.length) > 0) bytes += text.length;
  };
  const stamp = (): string => new Date(now()).toISOString();
  const flush = (entry: Counted): void => {
    if (entry.written === entry.denial.count) return;
    entry.written = entry.denial.count;
    append({ ...entry.denial, time: stamp() });
  };
  const begin = (denied: string, rule: string, { uid, pid }: { uid: number; pid: number }): void => {
    const time = stamp();
    const denial: Denial = { time, since: time, path: `/${nameToText(denied)}`, rule, count: 1, uid, pid };
    const entry: Counted = { denial, written: 0 };
    if (!mayWrite()) {
      suppressed++;
      return;
    }
    if (suppressed > 0) {
      append({ time, suppressed });
      suppressed = 0;
    }
    flush(entry);
    counted.set(denied, entry);
    if (counted.size <= limits.mostPaths) return;
    const [oldest, its] = counted.entries().next().value!;
    counted.delete(oldest);
    if (mayWrite()) flush(its);
  };
  return {
    note(denied, rule, caller) {
      const known = counted.get(denied);
      if (known === undefined) {
        begin(denied, rule, caller);
        return;
      }
      counted.delete(denied);
      counted.set(denied, known);
      known.denial.count++;
      if (known.denial.count >= known.written * 10 && mayWrite()) flush(known);
    },
    close() {
      for (const entry of counted.values()) flush(entry);
      if (suppressed > 0) append({ time: stamp(), suppressed });
      counted.clear();
      suppressed = 0;
      if (fd >= 0) close(fd);
      fd = -1;
    },
  };
}
