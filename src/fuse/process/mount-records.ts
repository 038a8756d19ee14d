/**
 * What is mounted, on disk: one record a mountpoint, so that mounts can be made again after a crash of strata-fs. A record is written
 * before the mount is made and removed after it is gone; records of another boot of the machine are void. Stacks are stored once, by the
 * digest of their key.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { MountRequest } from '../contract.ts';
import { shortDigest, stackName } from '../stack-name.ts';
import type { DataPlanePaths } from './paths.ts';

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

function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.tmp`, text, { mode: 0o600 });
  renameSync(`${file}.tmp`, file);
}

export interface MountRecords {
  put(request: MountRequest): void;
  remove(mountpoint: string): void;
  /** The mounts of this boot, oldest first. Unreadable records are left out. */
  list(): MountRequest[];
  /**
   * Before a relayer: the records of these VLFSs get their new stacks, so that a crash in between is recovered to the new state. Returns what
   * undoes it for those whose relayer failed.
   */
  restack(stacks: ReadonlyMap<string, StackSpec>): (failed: ReadonlySet<string>) => void;
  /** A stored stack, or null. */
  stack(name: string): StackSpec | null;
  /** Removes void records and stacks that no record names and nobody serves. */
  sweep(served?: ReadonlySet<string>): void;
}

export function openMountRecords(paths: DataPlanePaths): MountRecords {
  const boot = bootId();
  mkdirSync(paths.mountsDir, { recursive: true, mode: 0o700 });
  mkdirSync(paths.stacksDir, { recursive: true, mode: 0o700 });
  const fileOf = (mountpoint: string): string => join(paths.mountsDir, `${shortDigest(mountpoint)}.json`);
  const known = new Set(readdirSync(paths.stacksDir));

  function storeStack(stack: StackSpec): string {
    const name = stackName(stack.key);
    if (!known.has(name)) writeWhole(join(paths.stacksDir, name), JSON.stringify(stack));
    known.add(name);
    return name;
  }

  function readStack(name: string): StackSpec | null {
    if (!/^[0-9a-f]{40}\.json$/.test(name)) return null;
    try {
      return JSON.parse(readFileSync(join(paths.stacksDir, name), 'utf8')) as StackSpec;
    } catch {
      return null;
    }
  }

  function read(): { file: string; record: MountRecord }[] {
    const found: { file: string; record: MountRecord }[] = [];
    for (const name of readdirSync(paths.mountsDir)) {
      if (!name.endsWith('.json')) continue;
      const file = join(paths.mountsDir, name);
      try {
        found.push({ file, record: JSON.parse(readFileSync(file, 'utf8')) as MountRecord });
      } catch {
        rmSync(file, { force: true });
      }
    }
    return found.sort((a, b) => a.record.since - b.record.since);
  }

  const store = (record: MountRecord): void => writeWhole(fileOf(record.mountpoint), JSON.stringify(record));

  return {
    put({ id, mountpoint, readOnly, vlfs }) {
      const { stack, ...rest } = vlfs;
      const since = performance.timeOrigin + performance.now();
      store({ boot, since, id, mountpoint, readOnly, vlfs: { ...rest, stack: storeStack(stack) } });
    },
    remove: (mountpoint) => rmSync(fileOf(mountpoint), { force: true }),
    list() {
      const requests: MountRequest[] = [];
      const stacks = new Map<string, StackSpec>();
      for (const { record } of read()) {
        if (record.boot !== boot) continue;
        const { id, mountpoint, readOnly, vlfs } = record;
        // Many mounts have the same stack: it is read once.
        const stack = stacks.get(vlfs.stack) ?? readStack(vlfs.stack);
        // Without its stack it cannot be mounted; fleet/ still knows the appliance.
        if (stack === null) continue;
        stacks.set(vlfs.stack, stack);
        requests.push({ id, mountpoint, readOnly, vlfs: { ...vlfs, stack } });
      }
      return requests;
    },
    restack(stacks) {
      const before = read().filter(({ record }) => stacks.has(record.id));
      for (const { record } of before) {
        store({ ...record, vlfs: { ...record.vlfs, stack: storeStack(stacks.get(record.id)!) } });
      }
      return (failed) => {
        for (const { record } of before) if (failed.has(record.id)) store(record);
      };
    },
    stack: readStack,
    sweep(served = new Set()) {
      const used = new Set<string>(served);
      for (const { file, record } of read()) {
        if (record.boot === boot) used.add(record.vlfs.stack);
        else rmSync(file, { force: true });
      }
      for (const name of readdirSync(paths.stacksDir)) {
        if (used.has(name)) continue;
        rmSync(join(paths.stacksDir, name), { force: true });
        known.delete(name);
      }
    },
  };
}
