/**
 * Plays the same operations on an appliance behind a line of DEPTH clones: `node depth-child.test-support.ts DEPTH`. Everything is done twice; then each
 * operation is done again, announced by a line to /dev/null, so that who traces the process sees what it costs. Prints, as JSON, how often each
 * operation asked an index of a level.
 */
import { mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { LevelSpec, VlfsSpec } from '../contract.ts';
import { openStack } from '../stack/stack.ts';
import { Client, makeSandbox, type Sandbox, stackOf } from './vlfs.test-support.ts';

/** What each clone of the line has changed: a file of its own, one that every clone changes, one in a directory of its own. */
async function lineOf(box: Sandbox, depth: number): Promise<VlfsSpec> {
  const tree: Record<string, string> = {};
  for (let i = 0; i < 50; i++) tree[`usr/file-${i}`] = `${i}`;
  const levels: LevelSpec[] = [
    await box.unit('base', '1', { ...tree, 'etc/motd': 'base', 'etc/old': 'old' }),
  ];
  for (let i = 0; i < depth; i++) {
    const dir = join(box.dir, 'frozen', `f${i}`);
    const privateDir = join(dir, 'private');
    for (const one of ['etc', 'srv']) mkdirSync(join(privateDir, one), { recursive: true });
    mkdirSync(join(dir, 'whiteouts'));
    writeFileSync(join(privateDir, 'etc/motd'), `${i}`);
    writeFileSync(join(privateDir, `srv/own-${i % 7}`), `${i}`);
    if (i < 7) {
      mkdirSync(join(privateDir, `home/${i}`), { recursive: true });
      writeFileSync(join(privateDir, `home/${i}/file`), `${i}`);
    }
    levels.unshift({
      kind: 'frozen',
      id: `frozen/f${i}`,
      treeDir: privateDir,
      indexFile: join(dir, 'index'),
      whiteoutsDir: join(dir, 'whiteouts'),
      own: true,
    });
  }
  return { ...box.spec('deep', levels), stack: stackOf(levels) };
}

const asked = { count: 0 };

/** From now on calls of the levels' indexes are counted. */
function countCalls(spec: VlfsSpec): void {
  const units = new Set(openStack(spec.stack).units.map(({ index }) => index));
  for (const index of units) {
    for (const [key, value] of Object.entries(Object.getOwnPropertyDescriptors(index))) {
      const own = value.value as unknown;
      if (typeof own !== 'function') continue;
      Object.defineProperty(index, key, {
        value: (...args: unknown[]) => {
          asked.count++;
          return (own as (...all: unknown[]) => unknown).apply(index, args);
        },
      });
    }
  }
}

const operations: Record<string, (c: Client, round: number) => unknown> = {
  lookup: (c) => c.stat('etc/motd'),
  'lookup in the layers': (c) => c.stat('usr/file-7'),
  negative: (c) => c.exists('srv/nothing'),
  read: (c) => c.read('srv/own-0'),
  readdir: (c) => c.readdir('srv'),
  'readdir of the root': (c) => c.readdir(''),
  create: (c, round) => c.write(`srv/new-${round}`, 'new'),
  write: (c) => c.write('srv/new-0', 'again'),
  chmod: (c, round) => c.chmod('srv/new-0', 0o600 + round),
  rename: (c, round) => c.rename(`srv/new-${round}`, `etc/renamed-${round}`),
  mkdir: (c, round) => c.mkdir(`srv/dir-${round}`),
  rmdir: (c, round) => c.rmdir(`srv/dir-${round}`),
  unlink: (c, round) => c.unlink(`etc/renamed-${round}`),
  'unlink what is frozen': (c, round) => c.unlink(`home/${round}/file`),
  'rmdir what is frozen': (c, round) => c.rmdir(`home/${round}`),
  'rename what is frozen': (c, round) => c.rename(`home/${round + 3}`, `home/moved-${round}`),
};

const marks = openSync('/dev/null', 'w');
const box = makeSandbox();
try {
  const spec = await lineOf(box, Number(process.argv[2]));
  const client = new Client(spec);
  for (let i = 0; i < 7; i++) {
    client.readdir(`home/${i}`);
    client.stat(`home/${i}/file`);
  }
  countCalls(spec);
  const found: Record<string, number> = {};
  for (const round of [0, 1, 2]) {
    for (const [name, operation] of Object.entries(operations)) {
      if (round === 2) writeSync(marks, `operation ${name}\n`);
      asked.count = 0;
      operation(client, round);
      found[name] = asked.count;
    }
  }
  writeSync(marks, 'operation end\n');
  client.close();
  process.stdout.write(JSON.stringify({ asked: found, faults: client.faults }));
} finally {
  box.remove();
}
