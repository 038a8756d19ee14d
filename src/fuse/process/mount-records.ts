/**
 * What is mounted, on disk: one record a mountpoint, so that mounts can be made again after a crash of strata-fs. A record is written
 * before the mount is made and removed after it is gone; records of another boot of the machine are void. Stacks are stored once
 * (stack-store.ts).
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { MountRequest } from '../contract.ts';
import { shortDigest } from '../stack-name.ts';
import type { DataPlanePaths } from './paths.ts';
import { openStackStore, type StackStore } from './stack-store.ts';
import { writeWhole } from './write-whole.ts';

interface MountRecord {
  boot: string;
  /** Milliseconds since the epoch; mounts are made again in this order. */
  since: number;
  id: string;
  mountpoint: string;
  readOnly: boolean;
  vlfs: Omit<VlfsSpec, 'stack'> & { stack: string };
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

export interface MountRecords {
  put(request: MountRequest): void;
  remove(mountpoint: string): void;
  /** The mounts of this boot, oldest first. Unreadable records are left out. */
  list(): MountRequest[];
  /**
   * Before a relayer: the records of these VLFSs get their new stacks, so that a crash in between is recovered to the new state. Returns what
   * undoes it for those whose relayer failed. `mountpoints`: all that they have; else all records are looked at.
   */
  restack(
    next: ReadonlyMap<string, StackSpec>,
    mountpoints?: readonly string[],
  ): (failed: ReadonlySet<string>) => void;
  readonly stacks: StackStore;
  /**
   * Removes void records, and stacks that no record names, nobody serves and nobody asked for within the last `restMs` (0: ever). True: there are stacks that it left
   * for their rest.
   */
  sweep(served?: ReadonlySet<string>, restMs?: number): boolean;
}

export function openMountRecords(paths: DataPlanePaths): MountRecords {
  const boot = bootId();
  mkdirSync(paths.mountsDir, { recursive: true, mode: 0o700 });
  const stacks = openStackStore(paths);
  /** Records that this process wrote or read: nobody else writes them while it serves. */
  const stored = new Map<string, MountRecord>();
  const fileOf = (mountpoint: string): string => join(paths.mountsDir, `${shortDigest(mountpoint)}.json`);

  function read(
    files = readdirSync(paths.mountsDir).map((name) => join(paths.mountsDir, name)),
  ): { file: string; record: MountRecord }[] {
    const found: { file: string; record: MountRecord }[] = [];
    for (const file of files) {
      if (!file.endsWith('.json')) continue;
      const known = stored.get(file);
      if (known !== undefined) {
        found.push({ file, record: known });
        continue;
      }
      try {
        const record = JSON.parse(readFileSync(file, 'utf8')) as MountRecord;
        stored.set(file, record);
        found.push({ file, record });
      } catch {
        rmSync(file, { force: true });
      }
    }
    return found.sort((a, b) => a.record.since - b.record.since);
  }

  function store(record: MountRecord): void {
    const file = fileOf(record.mountpoint);
    writeWhole(file, JSON.stringify(record));
    stored.set(file, record);
  }

  function drop(file: string): void {
    rmSync(file, { force: true });
    stored.delete(file);
  }

  return {
    put({ id, mountpoint, readOnly, vlfs }) {
      const { stack, ...rest } = vlfs;
      const since = performance.timeOrigin + performance.now();
      store({ boot, since, id, mountpoint, readOnly, vlfs: { ...rest, stack: stacks.put(stack) } });
    },
    remove: (mountpoint) => drop(fileOf(mountpoint)),
    list() {
      const requests: MountRequest[] = [];
      for (const { record } of read()) {
        if (record.boot !== boot) continue;
        const { id, mountpoint, readOnly, vlfs } = record;
        const stack = stacks.get(vlfs.stack);
        // Without its stack it cannot be mounted; fleet/ still knows the appliance.
        if (stack === null) continue;
        requests.push({ id, mountpoint, readOnly, vlfs: { ...vlfs, stack } });
      }
      return requests;
    },
    restack(next, mountpoints) {
      const before = read(mountpoints?.map(fileOf)).filter(({ record }) => next.has(record.id));
      for (const { record } of before) {
        store({ ...record, vlfs: { ...record.vlfs, stack: stacks.put(next.get(record.id)!) } });
      }
      return (failed) => {
        for (const { record } of before) if (failed.has(record.id)) store(record);
      };
    },
    stacks,
    sweep(served = new Set(), restMs = 0) {
      const used = new Set<string>(served);
      for (const { file, record } of read()) {
        if (record.boot === boot) used.add(record.vlfs.stack);
        else drop(file);
      }
      return stacks.retain(used, restMs);
    },
  };
}
