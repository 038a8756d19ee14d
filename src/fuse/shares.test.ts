/** What all mounts of a thread share, memory for names and descriptors, is not one mount's to take. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import { dataPlanePid } from './process/client.ts';
import { mirrorSpec, type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

const NODES = 12_000;
const FILES = 15_000;

async function mounted(t: TestPlane, name: string): Promise<string> {
  const mountpoint = t.makeDir(`mnt-${name}`);
  const privateDir = t.makeDir(`appliances/${name}/private`);
  const vlfs = {
    ...mirrorSpec(name, privateDir),
    whiteoutsDir: t.makeDir(`appliances/${name}/whiteouts`),
    stack: { key: 'none', levels: [] },
  };
  await t.plane.mount({ id: name, mountpoint, vlfs, readOnly: false });
  return mountpoint;
}

/** Opens every file below the working directory with these flags and tells how many it could, and the first errno; holds them until its input ends. */
const HOLDER = `
import os, sys
held, errno = [], 0
for i in range(int(sys.argv[2])):
    try: held.append(os.open('d%d/f%d' % (i % 30, i), int(sys.argv[1]) | (os.O_CREAT if len(sys.argv) > 3 else 0)))
    except OSError as error:
        errno = error.errno
        break
print(len(held), errno, flush=True)
sys.stdin.read()
`;

async function holding(
  cwd: string,
  args: string[],
  body: (held: number, errno: number) => Promise<void> | void,
): Promise<void> {
  const child = spawn('python3', ['-c', HOLDER, ...args], { cwd, stdio: ['pipe', 'pipe', 'inherit'] });
  const exit = new Promise((resolve) => child.once('exit', resolve));
  try {
    let told = false;
    for await (const line of createInterface({ input: child.stdout })) {
      const [held, errno] = line.split(' ').map(Number);
      await body(held!, errno!);
      told = true;
      break;
    }
    assert.ok(told, 'the program ended');
  } finally {
    child.stdin.end();
    await exit;
  }
}

test('a mount that knows too many names lets the kernel forget them; one that holds them is refused more', async () => {
  await withDataPlane(
    async (t) => {
      const big = t.makeDir('appliances/big/private');
      for (let i = 0; i < FILES; i++) {
        if (i < 30) mkdirSync(join(big, `d${i}`));
        writeFileSync(join(big, `d${i % 30}/f${i}`), '');
      }
      const mnt = await mounted(t, 'big');
      const neighbour = await mounted(t, 'neighbour');
      writeFileSync(join(neighbour, 'file'), 'mine');
      for (const round of [1, 2]) {
        for (let i = 0; i < FILES; i++)
          assert.equal(statSync(join(mnt, `d${i % 30}/f${i}`)).size, 0, `round ${round}`);
      }
      assert.equal(readdirSync(join(mnt, 'd3'), { withFileTypes: true }).length, FILES / 30);
      const oPath = 0o10000000;
      await holding(mnt, [String(oPath), String(FILES)], (held, errno) => {
        assert.ok(held > NODES / 3 && held < NODES, `${held} of ${FILES} names are held`);
        assert.equal(errno, 23, 'ENFILE');
        assert.equal(readFileSync(join(neighbour, 'file'), 'utf8'), 'mine');
        mkdirSync(join(neighbour, 'more'));
        assert.deepEqual(readdirSync(neighbour).sort(), ['file', 'more']);
        assert.equal(
          readdirSync(join(mnt, 'd7')).length,
          FILES / 30,
          'names are listed whether or not they can be looked up',
        );
      });
      // What was given back can be used as soon as the kernel has been asked to forget it.
      await until('a name is found again', () => statSync(join(mnt, 'd29/f14999')).size === 0);
    },
    { layered: true, args: ['--most-nodes', String(NODES)] },
  );
});

test('a mount that holds files open is refused more while there are enough for the others', async () => {
  await withDataPlane(
    async (t) => {
      const mnt = await mounted(t, 'holder');
      const others = [await mounted(t, 'other'), await mounted(t, 'third')];
      for (let i = 0; i < 30; i++) mkdirSync(join(mnt, `d${i}`));
      const pid = dataPlanePid(t.root)!;
      const limit = Number(/Max open files\s+(\d+)/.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'))![1]);
      await holding(mnt, ['2', '12000', 'create'], (held, errno) => {
        if (errno !== 0) assert.ok(held >= limit / 12, `${held} of ${limit}`);
        assert.ok(readdirSync(`/proc/${pid}/fd`).length < limit / 2);
        for (const other of others) {
          writeFileSync(join(other, 'file'), 'mine');
          assert.equal(readFileSync(join(other, 'file'), 'utf8'), 'mine');
        }
      });
    },
    { layered: true },
  );
});
