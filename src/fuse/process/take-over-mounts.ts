/** The mounts of a strata-fs that was killed go to the serving threads of this one, as they were. */
import { nameFromText } from '../../base/index.ts';
import type { TakeOverOutcome } from '../loop/messages.ts';
import type { FormerMount } from '../loop/take-over.ts';
import { strataMountpoints } from '../transport/mountinfo.ts';
import { formerMounts } from './former-mounts.ts';
import type { Former, Holding } from './holding.ts';
import type { MountRecords } from './mount-records.ts';
import type { Served } from './mount-table.ts';
import type { ThreadGroups } from './thread-groups.ts';
import type { ServingThread } from './threads.ts';

/** Fills the table, by id; what cannot be opened is told to `log`. */
export async function takeOverMounts(
  {
    threads,
    records,
    holding,
    table,
  }: {
    threads: ThreadGroups;
    records: MountRecords;
    holding: Holding;
    table: Map<string, Served>;
  },
  former: Former,
  log: (line: string) => void,
): Promise<void> {
  const mounted = new Set(strataMountpoints());
  const wanted = records.list().filter((r) => mounted.has(nameFromText(r.mountpoint)));
  const recorded = Map.groupBy(wanted, ({ id }) => id);
  const found = formerMounts(former, records, recorded, log);
  const byThread = new Map<ServingThread, FormerMount[]>();
  const threadsOf = await Promise.all(found.map(({ spec }) => threads.join(spec)));
  for (const [i, mount] of found.entries()) {
    const thread = threadsOf[i]!;
    byThread.set(thread, [...(byThread.get(thread) ?? []), mount]);
    const mountpoints = (recorded.get(mount.id) ?? []).map(({ mountpoint, readOnly }) => ({
      path: mountpoint,
      readOnly,
    }));
    const { cache = 'shared', stack } = mount.spec;
    table.set(mount.id, { thread, mountpoints, cache, stackKey: stack.key });
  }
  // What is shown counts: the process may have died before a relayer was decided that is recorded already.
  const shown = found.filter(({ id, spec }) =>
    recorded.get(id)?.some(({ vlfs }) => vlfs.stack.key !== spec.stack.key),
  );
  if (shown.length > 0) records.restack(new Map(shown.map(({ id, spec }) => [id, spec.stack])));
  await Promise.all(
    [...byThread].map(async ([thread, mounts]) => {
      const { pidfd } = former;
      const outcomes = await thread.send<TakeOverOutcome[]>({ kind: 'take-over', mounts, pidfd });
      for (const { id, ledgerFd, failure } of outcomes) {
        if (failure === null) {
          holding.add(ledgerFd);
          continue;
        }
        log(`${id} could not be taken over: ${failure}`);
        threads.leave(thread);
        table.delete(id);
      }
    }),
  );
}
