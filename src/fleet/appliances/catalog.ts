/**
 * catalog.sqlite: an index of the appliances, so that listing 10,000 does not open 10,000 files. The files are the truth; the
 * catalog keeps the modification time of appliances/ it was last in step with, and is rebuilt when that differs, when it is
 * missing, damaged, or of another format. Must not hold anything that the files do not.
 */

import { lstatSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Family } from '../family/record.ts';

export interface CatalogRow {
  name: string;
  mac: string;
  template: string;
  /** The appliance has layers of its own, so its own generations. */
  own: boolean;
  /** Its own generation; null when it simply follows its template. */
  generation: number | null;
  heldBack: string | null;
  /** Its frozen layers, newest first. */
  frozen: string[];
  family: Family;
}

export interface Catalog {
  /** Whether the catalog shows what the files show. */
  isFresh(): boolean;
  put(rows: CatalogRow[]): void;
  remove(names: string[]): void;
  rebuild(rows: Iterable<CatalogRow>): void;
  get(name: string): CatalogRow | null;
  nameOfMac(mac: string): string | null;
  all(): CatalogRow[];
  /** Rows of one template's appliances. */
  ofTemplate(template: string): CatalogRow[];
  /** Rows of appliances with layers of their own. */
  withOwnLayers(): CatalogRow[];
  /** Rows of appliances whose time is over at this instant (ISO 8601). */
  endedBy(instant: string): CatalogRow[];
  /** When the first one ends after that; null: none does. */
  nextEnd(instant: string): string | null;
  count(): number;
  countByTemplate(): Map<string, number>;
  close(): void;
}

const FORMAT = '3';
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS appliances (
    name TEXT PRIMARY KEY, mac TEXT NOT NULL UNIQUE, template TEXT NOT NULL,
    own INTEGER NOT NULL, generation INTEGER, held_back TEXT, frozen TEXT, family TEXT NOT NULL,
    expires TEXT) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS appliances_template ON appliances (template);
  CREATE INDEX IF NOT EXISTS appliances_expires ON appliances (expires) WHERE expires IS NOT NULL;`;

type Raw = {
  name: string;
  mac: string;
  template: string;
  own: number;
  generation: number | null;
  held_back: string | null;
  frozen: string | null;
  /** JSON. */
  family: string;
};

function toRow(raw: Raw): CatalogRow {
  return {
    name: raw.name,
    mac: raw.mac,
    template: raw.template,
    own: raw.own === 1,
    generation: raw.generation,
    heldBack: raw.held_back,
    frozen: raw.frozen === null ? [] : raw.frozen.split(' '),
    family: JSON.parse(raw.family) as Family,
  };
}

function openDatabase(file: string): DatabaseSync {
  const open = () => {
    const db = new DatabaseSync(file);
    try {
      db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 2000;');
      const check = db.prepare('PRAGMA quick_check(1)').get() as { quick_check: string };
      if (check.quick_check !== 'ok') throw new Error(check.quick_check);
      db.exec(SCHEMA);
      db.prepare(
        'SELECT name, mac, template, own, generation, held_back, frozen, family, expires FROM appliances LIMIT 1',
      ).get();
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  };
  try {
    return open();
  } catch {
    for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
    return open();
  }
}

/** Opens (or makes) ROOT/catalog.sqlite. */
export function openCatalog(root: string): Catalog {
  const db = openDatabase(join(root, 'catalog.sqlite'));
  const applianceDir = join(root, 'appliances');
  const stamp = () => `${FORMAT} ${lstatSync(applianceDir, { bigint: true }).mtimeNs}`;
  const columns = 'name, mac, template, own, generation, held_back, frozen, family';
  const sql = {
    getMeta: db.prepare("SELECT value FROM meta WHERE key = 'stamp'"),
    setMeta: db.prepare("INSERT OR REPLACE INTO meta VALUES ('stamp', ?)"),
    put: db.prepare(
      `INSERT OR REPLACE INTO appliances (${columns}, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    remove: db.prepare('DELETE FROM appliances WHERE name = ?'),
    get: db.prepare(`SELECT ${columns} FROM appliances WHERE name = ?`),
    byMac: db.prepare('SELECT name FROM appliances WHERE mac = ?'),
    all: db.prepare(`SELECT ${columns} FROM appliances ORDER BY name`),
    ofTemplate: db.prepare(`SELECT ${columns} FROM appliances WHERE template = ? ORDER BY name`),
    ended: db.prepare(`SELECT ${columns} FROM appliances WHERE expires <= ? ORDER BY expires`),
    nextEnd: db.prepare('SELECT min(expires) AS at FROM appliances WHERE expires > ?'),
    own: db.prepare(`SELECT ${columns} FROM appliances WHERE own = 1 ORDER BY name`),
    count: db.prepare('SELECT count(*) AS n FROM appliances'),
    byTemplate: db.prepare('SELECT template, count(*) AS n FROM appliances GROUP BY template'),
  };

  function transaction(work: () => void): void {
    db.exec('BEGIN IMMEDIATE');
    try {
      work();
      sql.setMeta.run(stamp());
      db.exec('COMMIT');
    } catch (error) {
      db.exec('ROLLBACK');
      throw error;
    }
  }

  function insert(row: CatalogRow): void {
    const frozen = row.frozen.length === 0 ? null : row.frozen.join(' ');
    const { name, mac, template, own, generation, heldBack, family } = row;
    sql.put.run(
      name,
      mac,
      template,
      own ? 1 : 0,
      generation,
      heldBack,
      frozen,
      JSON.stringify(family),
      family.expires,
    );
  }

  return {
    isFresh: () => (sql.getMeta.get() as { value: string } | undefined)?.value === stamp(),
    put: (rows) => transaction(() => rows.forEach(insert)),
    remove: (names) => transaction(() => names.forEach((name) => void sql.remove.run(name))),
    rebuild: (rows) =>
      transaction(() => {
        db.exec('DELETE FROM appliances');
        for (const row of rows) insert(row);
      }),
    get(name) {
      const raw = sql.get.get(name) as Raw | undefined;
      return raw === undefined ? null : toRow(raw);
    },
    nameOfMac: (mac) => (sql.byMac.get(mac) as { name: string } | undefined)?.name ?? null,
    all: () => (sql.all.all() as Raw[]).map(toRow),
    ofTemplate: (template) => (sql.ofTemplate.all(template) as Raw[]).map(toRow),
    withOwnLayers: () => (sql.own.all() as Raw[]).map(toRow),
    endedBy: (instant) => (sql.ended.all(instant) as Raw[]).map(toRow),
    nextEnd: (instant) => (sql.nextEnd.get(instant) as { at: string | null }).at,
    count: () => (sql.count.get() as { n: number }).n,
    countByTemplate: () =>
      new Map(
        (sql.byTemplate.all() as { template: string; n: number }[]).map((row) => [row.template, row.n]),
      ),
    close: () => db.close(),
  };
}
