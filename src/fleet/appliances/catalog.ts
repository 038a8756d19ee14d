/**
 * catalog.sqlite: an index of the appliances, so that listing 10,000 does not open 10,000 files. The files are the truth; the
 * catalog keeps the modification time of appliances/ it was last in step with, and is rebuilt when that differs, when it is
 * missing, damaged, or of another format. Must not hold anything that the files do not.
 */

import { lstatSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type Family, frozenNeeds } from '../family/record.ts';

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
  /** As put, but written with the next question that rows in memory do not answer, or by `write`, before the command's record leaves the journal. */
  putLater(rows: CatalogRow[]): void;
  write(): void;
  remove(names: string[]): void;
  /** `isWhole`: there is no appliance whose state could not be read. */
  rebuild(rows: Iterable<CatalogRow>, isWhole: boolean): void;
  isWhole(): boolean;
  /** Whether some appliance needs a frozen layer. */
  needsFrozen(layer: string): boolean;
  /** Frozen layers that some appliance has ceased to need since the last call. */
  takeLetGo(): string[];
  get(name: string): CatalogRow | null;
  /** Rows come from the file again, not from memory. */
  reread(): void;
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

const FORMAT = '4';
/** Rows in memory. */
const MOST_RECENT = 256;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS appliances (
    name TEXT PRIMARY KEY, mac TEXT NOT NULL UNIQUE, template TEXT NOT NULL,
    own INTEGER NOT NULL, generation INTEGER, held_back TEXT, frozen TEXT, family TEXT NOT NULL,
    expires TEXT) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS needs (
    layer TEXT NOT NULL, name TEXT NOT NULL, parent TEXT, parent_created TEXT, PRIMARY KEY (layer, name)) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS needs_parent ON needs (parent, layer) WHERE parent IS NOT NULL;
  CREATE INDEX IF NOT EXISTS appliances_template ON appliances (template);
  CREATE INDEX IF NOT EXISTS appliances_expires ON appliances (expires) WHERE expires IS NOT NULL;`;

/** A frozen layer that an appliance needs; `parent`: only while that one is there. */
interface Need {
  layer: string;
  parent: string | null;
  parentCreated: string | null;
}

function needsOf(row: CatalogRow): Need[] {
  const { own, common } = frozenNeeds(row);
  const { parent } = row.family;
  return [
    ...own.map((layer) => ({ layer, parent: null, parentCreated: null })),
    ...common.map((layer) => ({ layer, parent: parent!.name, parentCreated: parent!.createdAt })),
  ];
}

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
    getWhole: db.prepare("SELECT value FROM meta WHERE key = 'whole'"),
    setWhole: db.prepare("INSERT OR REPLACE INTO meta VALUES ('whole', ?)"),
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
    need: db.prepare('INSERT OR REPLACE INTO needs VALUES (?, ?, ?, ?)'),
    letGo: db.prepare('DELETE FROM needs WHERE layer = ? AND name = ?'),
    asParent: db.prepare('SELECT layer FROM needs WHERE parent = ?'),
    needed: db.prepare(`SELECT 1 FROM needs WHERE layer = ? AND (parent IS NULL OR EXISTS (
      SELECT 1 FROM appliances AS a WHERE a.name = needs.parent
        AND coalesce(a.family ->> 'createdAt' = needs.parent_created, 1))) LIMIT 1`),
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
      recent.clear();
      throw error;
    }
  }

  const letGo = new Set<string>();
  /** Rows that are not written yet, by name. */
  const later = new Map<string, CatalogRow>();

  function write(): void {
    if (later.size === 0) return;
    transaction(() => [...later.values()].forEach(insert));
    later.clear();
  }

  /** Of all that has been put. */
  const whole =
    <A extends unknown[], R>(ask: (...about: A) => R) =>
    (...about: A): R => {
      write();
      return ask(...about);
    };

  /** Rows that were asked for last, as they are in the file. */
  const recent = new Map<string, CatalogRow | null>();

  function get(name: string): CatalogRow | null {
    const known = recent.get(name);
    if (known !== undefined) return known;
    const raw = sql.get.get(name) as Raw | undefined;
    if (recent.size >= MOST_RECENT) recent.clear();
    const row = raw === undefined ? null : toRow(raw);
    recent.set(name, row);
    return row;
  }

  function setNeeds(name: string, before: CatalogRow | null, now: CatalogRow | null): void {
    const key = ({ layer, parent, parentCreated }: Need): string => `${layer} ${parent} ${parentCreated}`;
    const needed = now === null ? [] : needsOf(now);
    const had = new Set<string>();
    const layers = new Set(needed.map(({ layer }) => layer));
    for (const need of before === null ? [] : needsOf(before)) {
      had.add(key(need));
      if (layers.has(need.layer)) continue;
      sql.letGo.run(need.layer, name);
      letGo.add(need.layer);
    }
    for (const need of needed)
      if (!had.has(key(need))) sql.need.run(need.layer, name, need.parent, need.parentCreated);
  }

  function remove(name: string): void {
    setNeeds(name, get(name), null);
    for (const { layer } of sql.asParent.all(name) as { layer: string }[]) letGo.add(layer);
    sql.remove.run(name);
    recent.delete(name);
  }

  function insert(row: CatalogRow): void {
    setNeeds(row.name, get(row.name), row);
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
    recent.delete(name);
  }

  return {
    isFresh: whole(() => (sql.getMeta.get() as { value: string } | undefined)?.value === stamp()),
    put: whole((rows) => transaction(() => rows.forEach(insert))),
    putLater(rows) {
      for (const row of rows) later.set(row.name, row);
    },
    write,
    remove: whole((names) => transaction(() => names.forEach(remove))),
    rebuild: whole((rows, isWhole) =>
      transaction(() => {
        db.exec('DELETE FROM appliances; DELETE FROM needs');
        recent.clear();
        for (const row of rows) insert(row);
        sql.setWhole.run(isWhole ? '1' : '0');
      }),
    ),
    isWhole: () => (sql.getWhole.get() as { value: string } | undefined)?.value === '1',
    needsFrozen: whole((layer) => sql.needed.get(layer) !== undefined),
    takeLetGo: whole(() => {
      const taken = [...letGo];
      letGo.clear();
      return taken;
    }),
    get: (name) => later.get(name) ?? get(name),
    reread: () => recent.clear(),
    nameOfMac(mac) {
      for (const row of later.values()) if (row.mac === mac) return row.name;
      return (sql.byMac.get(mac) as { name: string } | undefined)?.name ?? null;
    },
    all: whole(() => (sql.all.all() as Raw[]).map(toRow)),
    ofTemplate: whole((template) => (sql.ofTemplate.all(template) as Raw[]).map(toRow)),
    withOwnLayers: whole(() => (sql.own.all() as Raw[]).map(toRow)),
    endedBy: whole((instant) => (sql.ended.all(instant) as Raw[]).map(toRow)),
    nextEnd: whole((instant) => (sql.nextEnd.get(instant) as { at: string | null }).at),
    count: whole(() => (sql.count.get() as { n: number }).n),
    countByTemplate: whole(
      () =>
        new Map(
          (sql.byTemplate.all() as { template: string; n: number }[]).map((row) => [row.template, row.n]),
        ),
    ),
    close() {
      try {
        write();
      } finally {
        db.close();
      }
    },
  };
}
