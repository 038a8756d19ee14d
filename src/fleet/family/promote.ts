/**
 * Promotion: a clone takes its parent's place in the family, and the parent becomes its clone. Frozen layers belong to all who list them, so no file moves and nothing
 * that either shows changes; what changes is whom the tree shows as the head, and what `merge` and `diff` call parent and clone.
 */
import { StrataError } from '../../base/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import type { FrozenId } from '../clone/frozen.ts';
import type { FleetContext } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { COMMIT } from '../state/locks.ts';
import { baseOf } from './base.ts';
import { commitRows } from './change.ts';
import { type Merge, parentOf } from './record.ts';

export async function promoteAppliance(context: FleetContext, name: string): ReturnType<Fleet['promote']> {
  const first = parentFor(context, applianceRow(context, name));
  return context.locks.with([applianceLock(name), applianceLock(first.name), COMMIT], async () => {
    const clone = applianceRow(context, name);
    const parent = parentFor(context, clone);
    if (parent.name !== first.name)
      throw new StrataError('BUSY', `the family of ${name} has just changed`, { hint: 'try again' });
    const { family } = clone;
    const base = olderBase(context, clone, parent);
    const merges = family.merges.map((merge): Merge => ({ ...merge, into: turned[merge.into] }));
    const rows: CatalogRow[] = [
      { ...clone, family: { ...family, parent: parent.family.parent, base, merges: [] } },
      {
        ...parent,
        family: {
          ...parent.family,
          parent: { name, createdAt: family.createdAt },
          base: family.base,
          merges,
        },
      },
    ];
    await commitRows(context, 'promote', rows);
    return {
      name,
      former_parent: parent.name,
      parent: parentOf(rows[0]!, (one) => context.catalog.get(one))?.name ?? null,
    };
  });
}

const turned = { clone: 'parent', parent: 'clone' } as const;

/**
 * What a clone has in common with its parent's parent: the older of two bases in the same line. The parent may have been merged since the clone was made, and of that
 * the clone knows nothing. Null: it cannot be told, and merges go by the lists of layers.
 */
function olderBase(context: FleetContext, clone: CatalogRow, parent: CatalogRow): FrozenId[] | null {
  const head = parentOf(parent, (one) => context.catalog.get(one));
  const one = clone.family.base === null ? null : baseOf(context, clone, parent);
  const other =
    parent.family.base === null || head === null ? parent.family.base : baseOf(context, parent, head);
  if (one === null || other === null) return null;
  const [older, newer] = one.length < other.length ? [one, other] : [other, one];
  const added = newer.length - older.length;
  return older.every((id, i) => newer[added + i] === id) ? older : null;
}

function parentFor(context: FleetContext, row: CatalogRow): CatalogRow {
  const parent = parentOf(row, (name) => context.catalog.get(name));
  if (parent !== null) return parent;
  throw new StrataError('UNSUPPORTED', `appliance ${row.name} has no parent: it is the head of its family`, {
    hint: 'strata tree shows the families',
  });
}
