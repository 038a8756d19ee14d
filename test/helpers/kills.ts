/** kill -9 of strata-fs and stratad of a state root while programs work in its mounts. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export type Killed = 'strata-fs.pid' | 'stratad.pid';

/** The process that a pid file in ROOT/run names, or 0. */
export function pidIn(root: string, file: Killed): number {
  try {
    return Number(readFileSync(join(root, 'run', file), 'utf8').trim());
  } catch {
    return 0;
  }
}

export function killNow(root: string, file: Killed): boolean {
  const pid = pidIn(root, file);
  try {
    if (pid > 1) process.kill(pid, 'SIGKILL');
    return pid > 1;
  } catch {
    return false;
  }
}

/** Kills at random moments until the work ends or `enough`; every other time stratad too. Returns how often strata-fs was killed. */
export async function killDuring(
  root: string,
  work: Promise<unknown>,
  enough: () => boolean = () => false,
): Promise<number> {
  let ended = false;
  let kills = 0;
  const end = work.finally(() => {
    ended = true;
  });
  end.catch(() => {});
  while (!ended && !enough()) {
    await Promise.race([end.catch(() => {}), sleep(150 + Math.random() * 1500)]);
    const killed = pidIn(root, 'strata-fs.pid');
    if (ended || enough() || !killNow(root, 'strata-fs.pid')) continue;
    kills++;
    if (kills % 2 === 0) killNow(root, 'stratad.pid');
    while (!ended && pidIn(root, 'strata-fs.pid') === killed) await sleep(10);
  }
  await end;
  return kills;
}

/** The output of a program that must succeed. */
export async function program(command: string, args: string[]): Promise<string> {
  return await succeeded(spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] }));
}

export async function succeeded(child: ChildProcess): Promise<string> {
  let out = '';
  for (const stream of [child.stdout!, child.stderr!])
    stream.on('data', (chunk) => {
      out += chunk;
    });
  const [code, signal] = await once(child, 'close');
  assert.equal(code, 0, `${child.spawnargs.join(' ')}: ${signal ?? code}\n${out.slice(-4000)}`);
  return out;
}
