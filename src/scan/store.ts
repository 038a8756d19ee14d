/**
 * ROOT/scan/verdicts.sqlite: verdicts by content and scanner's stamp, and which content a private file has, by its identity (dev, ino, ctime,
 * size). It is a cache: whatever is lost is scanned again, so a damaged one is made anew. Several threads may have it open.
 * Kept true: a verdict is only ever of the very stamp it was made with.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Digest } from '../base/index.ts';
import type { Stat } from '../sys/index.ts';

/** The file as it was when its content was read. */
export type Identity = Pick<Stat, 'dev' | 'ino' | 'size' | 'ctimeSec' | 'ctimeNsec'>;

export type Verdict = { kind: 'clean' } | { kind: 'infected'; name: string };

export interface VerdictStore {
  /** The verdict of this stamp, or null. */
  verdict(digest: Digest): Verdict | null;
  put(digest: Digest, verdict: Verdict): void;
  /** Forgets all verdicts of this stamp. */
  forgetVerdicts(): void;
  /** The content of a file that has not changed since, or null. */
  digestOf(identity: Identity): Digest | null;
  remember(identity: Identity, digest: Digest): void;
  /** A run over the whole fleet ended: forgets files that were not seen for a week, and verdicts of this kind's stamps that were not used for a day. */
  forgetOld(): void;
  /** Writes what is kept back. */
  flush(): void;
  close(): void;
}

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS stamps (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, stamp TEXT NOT NULL UNIQUE, used INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS verdicts (digest BLOB NOT NULL, stamp INTEGER NOT NULL, name TEXT, PRIMARY KEY (digest, stamp)) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS files (dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL, ctime_sec INTEGER NOT NULL,
    ctime_nsec INTEGER NOT NULL, digest BLOB NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (dev, ino)) STRICT, WITHOUT ROWID;`;
/** Rows written in one transaction: others wait for it only a moment. */
const BATCH = 256;
const DAY_MS = 24 * 3_600_000;
/** So long a file may go unseen. */
const UNSEEN_MS = 7 * DAY_MS;

/** Opens a database file of this schema; one that is damaged is replaced by an empty one. */
function openDatabase(file: string): DatabaseSync {
  const open = (): DatabaseSync => {
    const db = new DatabaseSync(file);
    try {
      db.exec('PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;');
      db.exec(SCHEMA);
      db.prepare('SELECT dev, ino, size, ctime_sec, ctime_nsec, digest, seen FROM files LIMIT 1').get();
      db.prepare('SELECT digest, stamp, name FROM verdicts LIMIT 1').get();
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  };
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  try {
    return open();
  } catch (error) {
    // Busy, or no space: the file is sound.
    if (!/malformed|not a database|no such column/.test((error as Error).message)) throw error;
    dropStore(file);
    return open();
  }
}

/** Removes the store. It must not be open. */
export function dropStore(file: string): void {
  for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
}

/** What is wrong with the file of a store, or null. Reads all of it. */
export function checkStore(file: string): string | null {
  try {
    const db = new DatabaseSync(file, { readOnly: true });
    try {
      const row = db.prepare('PRAGMA quick_check(1)').get() as { quick_check: string };
      return row.quick_check === 'ok' ? null : row.quick_check;
    } finally {
      db.close();
    }
  } catch (error) {
    return (error as Error).message;
  }
}

/** Forgets verdicts of stamps that nobody has used for so long, and files beside them; returns how many verdicts went. */
export function pruneStore(file: string, unusedMs: number, dryRun: boolean): number {
  const db = openDatabase(file);
  try {
    const before = Date.now() - unusedMs;
    const old = 'SELECT id FROM stamps WHERE used < ?';
    const { n } = db.prepare(`SELECT count(*) AS n FROM verdicts WHERE stamp IN (${old})`).get(before) as {
      n: number;
    };
    if (dryRun || n === 0) return n;
    db.prepare(`DELETE FROM verdicts WHERE stamp IN (${old})`).run(before);
    db.prepare('DELETE FROM stamps WHERE used < ?').run(before);
    return n;
  } finally {
    db.close();
  }
}

const bytesOf = (digest: Digest): Uint8Array => Buffer.from(digest, 'hex');

/** Opens the store for one scanner. Throws when the file system refuses. */
export function openVerdictStore(file: string, scanner: { kind: string; stamp: string }): VerdictStore {
  const db = openDatabase(file);
  const now = Date.now();
  db.prepare(
    'INSERT INTO stamps (kind, stamp, used) VALUES (?, ?, ?) ON CONFLICT (stamp) DO UPDATE SET used = excluded.used',
  ).run(scanner.kind, scanner.stamp, now);
  const { id } = db.prepare('SELECT id FROM stamps WHERE stamp = ?').get(scanner.stamp) as { id: number };
  const sql = {
    verdict: db.prepare('SELECT name FROM verdicts WHERE digest = ? AND stamp = ?'),
    put: db.prepare('INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)'),
    file: db.prepare(
      'SELECT digest, seen FROM files WHERE dev = ? AND ino = ? AND size = ? AND ctime_sec = ? AND ctime_nsec = ?',
    ),
    remember: db.prepare('INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)'),
  };
  /** Not written yet. */
  const verdicts = new Map<Digest, Verdict>();
  const files = new Map<string, { identity: Identity; digest: Digest }>();
  const keyOf = ({ dev, ino }: Identity): string => `${dev}:${ino}`;

  function flush(): void {
    if (verdicts.size + files.size === 0) return;
    db.exec('BEGIN IMMEDIATE');
    try {
      for (const [digest, verdict] of verdicts)
        sql.put.run(bytesOf(digest), id, verdict.kind === 'clean' ? null : verdict.name);
      for (const { identity: f, digest } of files.values())
        sql.remember.run(f.dev, f.ino, f.size, f.ctimeSec, f.ctimeNsec, bytesOf(digest), now);
      db.exec('COMMIT');
    } catch (error) {
      db.exec('ROLLBACK');
      throw error;
    }
    verdicts.clear();
    files.clear();
  }

  const written = (): void => {
    if (verdicts.size + files.size >= BATCH) flush();
  };

  function remember({ dev, ino, size, ctimeSec, ctimeNsec }: Identity, digest: Digest): void {
    const identity = { dev, ino, size, ctimeSec, ctimeNsec };
    files.set(keyOf(identity), { identity, digest });
    written();
  }

  return {
    verdict(digest) {
      const pending = verdicts.get(digest);
      if (pending !== undefined) return pending;
      const row = sql.verdict.get(bytesOf(digest), id) as { name: string | null } | undefined;
      if (row === undefined) return null;
      return row.name === null ? { kind: 'clean' } : { kind: 'infected', name: row.name };
    },
    put(digest, verdict) {
      verdicts.set(digest, verdict);
      written();
    },
    forgetVerdicts() {
      verdicts.clear();
      db.prepare('DELETE FROM verdicts WHERE stamp = ?').run(id);
    },
    digestOf(identity) {
      const { dev, ino, size, ctimeSec, ctimeNsec } = identity;
      const pending = files.get(keyOf(identity));
      if (pending !== undefined) {
        const f = pending.identity;
        return f.size === size && f.ctimeSec === ctimeSec && f.ctimeNsec === ctimeNsec
          ? pending.digest
          : null;
      }
      const row = sql.file.get(dev, ino, size, ctimeSec, ctimeNsec) as
        | { digest: Uint8Array; seen: number }
        | undefined;
      if (row === undefined) return null;
      const digest = Buffer.from(row.digest).toString('hex') as Digest;
      if (row.seen < now - DAY_MS) remember(identity, digest);
      return digest;
    },
    remember,
    forgetOld() {
      flush();
      db.prepare('DELETE FROM files WHERE seen < ?').run(now - UNSEEN_MS);
      const others = 'SELECT id FROM stamps WHERE kind = ? AND used < ?';
      db.prepare(`DELETE FROM verdicts WHERE stamp IN (${others})`).run(scanner.kind, now - DAY_MS);
      db.prepare('DELETE FROM stamps WHERE kind = ? AND used < ?').run(scanner.kind, now - DAY_MS);
    },
    flush,
    close() {
      try {
        flush();
      } finally {
        db.close();
      }
    },
  };
}
