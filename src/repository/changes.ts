/** What a sync changed, counted by layer and version. */
import type { OfferedUnit } from '../resolver/contract.ts';

/** How many units of `after` are not in `before`, and the other way round. */
export function countChanges(
  before: readonly OfferedUnit[],
  after: readonly OfferedUnit[],
): { added: number; removed: number } {
  const old = new Set(before.map((unit) => `${unit.layer} ${unit.version}`));
  let kept = 0;
  for (const unit of after) if (old.has(`${unit.layer} ${unit.version}`)) kept++;
  return { added: after.length - kept, removed: old.size - kept };
}
