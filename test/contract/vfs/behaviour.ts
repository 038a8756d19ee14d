/**
 * What a topic of the contract of a file system is made of, and the few tools its behaviours need. A behaviour gets a directory in which the
 * topic's objects were planted before (in the place itself, or in a layer below it) and asserts what a program sees there. It knows nothing of
 * Strata: the same function runs over a plain directory of the host, which is the oracle.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, fstatSync, lstatSync, openSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';

export interface Topic {
  /** A directory name. */
  name: string;
  /** Makes the objects that every behaviour of the topic finds in its directory. */
  plant(dir: string): void;
  behaviours: Record<string, (dir: string) => void | Promise<void>>;
}

/** Somebody who is not root; the groups are supplementary. */
export interface User {
  uid: number;
  gid: number;
  groups?: number[];
}

export const ALICE: User = { uid: 4001, gid: 4001 };
export const BOB: User = { uid: 4002, gid: 4002 };
/** A group that both may be given. */
export const STAFF = 4100;

/** Runs synchronous calls with the file system identity of a user (all threads of this process take it for that time). */
export function as<T>(user: User, run: () => T): T {
  const before = process.getgroups!();
  process.setgroups!(user.groups ?? []);
  process.setegid!(user.gid);
  process.seteuid!(user.uid);
  try {
    return run();
  } finally {
    process.seteuid!(0);
    process.setegid!(0);
    process.setgroups!(before);
  }
}

/** Runs synchronous calls under a umask. */
export function withUmask<T>(mask: number, run: () => T): T {
  const before = process.umask(mask);
  try {
    return run();
  } finally {
    process.umask(before);
  }
}

/** Asserts that a call fails with an errno, by its name. */
export function fails(code: string, run: () => unknown): void {
  let result: unknown;
  try {
    result = run();
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, code, String(error));
    return;
  }
  assert.fail(`expected ${code}, and it gave ${JSON.stringify(result)}`);
}

/** The result of a call of src/sys, which must have succeeded. */
export function ok(result: number): number {
  assert.ok(result >= 0, result < 0 ? getSystemErrorName(result) : '');
  return result;
}

/** Asserts that a call of src/sys failed with an errno, by its name. */
export function refused(code: string, result: unknown): void {
  assert.equal(typeof result === 'number' && result < 0 ? getSystemErrorName(result) : result, code);
}

/** Opens a file for as long as `use` runs. */
export function withFile<T>(path: string, flags: string | number, use: (fd: number) => T): T {
  const fd = openSync(path, flags);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** st_ino of a path (a symlink is not followed) or a descriptor, in all its 64 bits. */
export function inoOf(file: string | number): bigint {
  return (typeof file === 'number' ? fstatSync(file, { bigint: true }) : lstatSync(file, { bigint: true }))
    .ino;
}

/** Runs a Python program for the calls that neither Node nor src/sys has; it must exit 0. Returns what it printed. */
export function python(program: string, ...args: string[]): string {
  const ran = spawnSync('python3', ['-I', '-S', '-c', program, ...args], {
    encoding: 'utf8',
    timeout: 120_000,
  });
  assert.equal(ran.status, 0, ran.stdout + ran.stderr);
  return ran.stdout.trim();
}

/** Runs a program; it must exit 0. Returns what it printed. */
export function tool(file: string, ...args: string[]): string {
  return execFileSync(file, args, { encoding: 'utf8', timeout: 120_000, stdio: ['ignore', 'pipe', 'pipe'] });
}
