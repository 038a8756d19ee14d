/**
 * Containers on appliances: a run has its root at ROOT/mnt/NAME, which is mounted for the first run of an appliance and unmounted after
 * the last. Runs are recorded in ROOT/run/runs/, so a new stratad knows them; those whose container is gone are ended at open.
 */
import { rmdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import { cleanupStale, listContainers, prepareBundle, removeBundle } from '../../runtime/index.ts';
import type { CacheMode } from '../../vlfs/contract.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet, RunPreparation } from '../contract.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { makeDirectory, replaceFile } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceDefinition, reconcileMount, vlfsSpec } from '../templates/follow.ts';
import { mountsOf, refuseOtherCache } from './mount-list.ts';
import { type RunRecord, runMountpoint, runRecordFile, runRecords } from './run-records.ts';

/** A run this young may not have reached its container yet. */
const STARTING_MS = 60_000;
const ENV = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
};

/** Mounts the appliance if need be and writes the container's bundle. */
export async function prepareRun(
  context: FleetContext,
  options: Parameters<Fleet['prepareRun']>[0],
): Promise<RunPreparation> {
  const { name } = applianceRow(context, options.name);
  return context.locks.with([applianceLock(name)], async () => {
    const rootfs = runMountpoint(context, name);
    await mountForRun(context, name, rootfs, options.cache);
    const runId = `strata-${name.replaceAll(/[^A-Za-z0-9_.-]/g, '-').slice(0, 64)}-${operationId()}`;
    const record: RunRecord = { format: 1, runId, name, startedAt: Date.now() };
    makeDirectory(context.paths.runs, 0o700);
    replaceFile(runRecordFile(context, runId), `${JSON.stringify(record)}\n`);
    try {
      const env: Record<string, string> = {
        ...ENV,
        ...(options.terminal ? { TERM: 'xterm' } : {}),
        ...options.env,
      };
      const { argv } = await prepareBundle(context.root, {
        id: runId,
        rootfs,
        hostname: name.slice(0, 63),
        command: options.command,
        env,
        cwd: '/',
        network: options.network,
        terminal: options.terminal,
      });
      return { argv, runId, env: {} };
    } catch (error) {
      rmSync(runRecordFile(context, runId), { force: true });
      await releaseMount(context, name);
      throw error;
    }
  });
}

async function mountForRun(
  context: FleetContext,
  name: string,
  rootfs: string,
  cache: CacheMode | undefined,
): Promise<void> {
  await context.locks.with([COMMIT], async () => {
    const { mounts, found } = await mountsOf(context, name, rootfs);
    refuseSealed(context, name);
    refuseOtherCache(mounts, name, cache);
    settleSealed(context, name, applianceDefinition(context, applianceRow(context, name)).record);
    if (mounts.some((mount) => mount.dir === rootfs)) return;
    makeDirectory(rootfs, 0o755);
    await reconcileMount(context, name, found);
    const plane = await context.dataPlane();
    const spec = vlfsSpec(context, applianceRow(context, name), { cache });
    await plane.mount({ id: name, mountpoint: rootfs, vlfs: spec, readOnly: false });
  });
}

/** Ends a run: its bundle goes, and the mount when no other run needs it. Unknown runs are no error. */
export async function finishRun(context: FleetContext, runId: string): Promise<void> {
  const record = runRecords(context).find((one) => one.runId === runId);
  if (!record) return;
  await context.locks.with([applianceLock(record.name)], async () => {
    await removeBundle(context.root, runId);
    rmSync(runRecordFile(context, runId), { force: true });
    await releaseMount(context, record.name);
  });
}

/** Unmounts ROOT/mnt/NAME when no run uses it. What a dead container leaves behind may keep it busy for a moment. */
async function releaseMount(context: FleetContext, name: string): Promise<void> {
  if (runRecords(context).some((record) => record.name === name)) return;
  const rootfs = runMountpoint(context, name);
  const plane = await context.runningDataPlane();
  const found = await plane?.find({ id: name });
  if (!plane || !found?.mounts.some((mount) => mount.mountpoint === rootfs)) return;
  for (let attempt = 0; ; attempt++) {
    try {
      await plane.unmount(rootfs, { force: attempt >= 10 });
      break;
    } catch (error) {
      if (attempt >= 10 || !(error instanceof StrataError) || error.code !== 'BUSY') throw error;
      await sleep(10 * (attempt + 1));
    }
  }
  try {
    rmdirSync(rootfs);
  } catch {
    // Not empty or gone: it is made again when it is needed.
  }
}

/** Ends the runs whose containers ended while no stratad was there. */
export async function endStaleRuns(context: FleetContext): Promise<void> {
  const all = runRecords(context);
  if (all.length === 0) return;
  await cleanupStale(context.root);
  const living = new Set((await listContainers(context.root)).map((container) => container.id));
  for (const { runId, startedAt } of all)
    if (!living.has(runId) && Date.now() - startedAt > STARTING_MS) await finishRun(context, runId);
}
