/** The family of appliances as one list in tree order: each clone below the appliance that it was cloned from. */
import { applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import type { FleetContext } from '../context.ts';
import type { FamilyMember, Fleet } from '../contract.ts';
import { mountpoints } from '../mounts/mount-list.ts';
import { parentOf } from './record.ts';

/**
 * Templates in order, below each its appliances that have no parent, and below those their clones, by name. A deleted appliance is left out: its clones
 * begin trees of their own, which say whose clones they were. `name`: only the tree in which this appliance is.
 */
export async function familyTree(context: FleetContext, o: { name?: string }): ReturnType<Fleet['tree']> {
  const rows = context.catalog.all();
  const byName = new Map(rows.map((row) => [row.name, row]));
  const mounts = await mountpoints(context).catch(() => new Map<string, string[]>());
  const heads: CatalogRow[] = [];
  const clones = new Map<string, CatalogRow[]>();
  for (const row of rows) {
    const parent = parentOf(row, (name) => byName.get(name) ?? null);
    if (parent === null) heads.push(row);
    else clones.set(parent.name, [...(clones.get(parent.name) ?? []), row]);
  }
  const wanted = o.name === undefined ? heads : [headOf(applianceRow(context, o.name), byName)];
  wanted.sort((a, b) => compare(a.template, b.template) || compare(a.name, b.name));
  const appliances: FamilyMember[] = [];
  const pending = wanted.map((row) => ({ row, parent: null as string | null, depth: 0 })).reverse();
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { row, parent, depth } = next;
    const { createdAt, expires, snapshots } = row.family;
    appliances.push({
      name: row.name,
      template: row.template,
      depth,
      parent,
      deleted_parent: parent === null ? (row.family.parent?.name ?? null) : null,
      created_at: createdAt,
      expires,
      mounts: mounts.get(row.name) ?? [],
      snapshots: snapshots.map((one) => ({ name: one.name, created_at: one.createdAt })),
    });
    const below = (clones.get(row.name) ?? []).map((clone) => ({
      row: clone,
      parent: row.name,
      depth: depth + 1,
    }));
    pending.push(...below.reverse());
  }
  return { appliances };
}

function headOf(row: CatalogRow, byName: Map<string, CatalogRow>): CatalogRow {
  const seen = new Set<CatalogRow>();
  for (let at = row; ; ) {
    seen.add(at);
    const parent = parentOf(at, (name) => byName.get(name) ?? null);
    if (parent === null || seen.has(parent)) return at;
    at = parent;
  }
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
