/**
 * Random operations on an appliance, on clones of it and on clones of clones, each side by side with a plain directory of the host (a copy of its
 * source's at the clone): all must show the same at every step, whoever wrote meanwhile. After a clone its source shows the same attributes and the
 * same changes as before, and reverting everything shows the layers again.
 */
import assert from 'node:assert/strict';
import * as nodeFs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Attr, VlfsSpec } from './contract.ts';
import { cloneOf, freeze } from './frozen.test-support.ts';
import { answer, answerable, hostTree, onHost, vlfsTree } from './host.test-support.ts';
import { diffVlfs } from './index.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from './operations.test-support.ts';
import { Client, makeSandbox, type Sandbox } from './vlfs.test-support.ts';

type Step = { who: number; o: Operation } | { who: number; clone: true } | { who: number; revert: string };

const who = fc.nat(3);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ who, o: operation }) },
  { weight: 2, arbitrary: fc.record({ who, clone: fc.constant(true as const) }) },
);

interface Side {
  spec: VlfsSpec;
  host: string;
  client: Client;
}

/** Hard links, too, unlike cp. */
function copyHost(from: string, to: string): void {
  const links = new Map<number, string>();
  const copy = (source: string, target: string): void => {
    nodeFs.mkdirSync(target);
    for (const name of nodeFs.readdirSync(source)) {
      const [a, b] = [join(source, name), join(target, name)];
      const stat = nodeFs.lstatSync(a);
      const first = links.get(stat.ino);
      if (stat.isDirectory()) copy(a, b);
      else if (first !== undefined) nodeFs.linkSync(first, b);
      else {
        if (stat.isSymbolicLink()) nodeFs.symlinkSync(nodeFs.readlinkSync(a), b);
        else nodeFs.copyFileSync(a, b);
        links.set(stat.ino, b);
      }
    }
    nodeFs.chmodSync(target, nodeFs.lstatSync(source).mode & 0o7777);
  };
  copy(from, to);
}

/** Every attribute of everything, but what reading changes. */
function attributes(c: Client): Record<string, Partial<Attr>> {
  const found: Record<string, Partial<Attr>> = {};
  for (const at of ['', ...Object.keys(c.tree())]) {
    const { atimeSec: _s, atimeNsec: _n, ...rest } = c.stat(at);
    found[at] = rest;
    // The root is another directory on disk, whose change time nobody can set.
    if (at === '') Object.assign(rest, { ctimeSec: 0, ctimeNsec: 0, size: 0, blocks: 0 });
  }
  return found;
}

async function play(box: Sandbox, first: VlfsSpec, steps: Step[], passthrough: boolean): Promise<void> {
  const layers = join(box.dir, `layers-${first.name}`);
  nodeFs.mkdirSync(layers);
  for (const level of [...first.stack.levels].reverse())
    nodeFs.cpSync(level.treeDir, layers, {
      recursive: true,
      verbatimSymlinks: true,
      preserveTimestamps: true,
    });
  for (const [one, two] of [
    ['e/a', 'e/b'],
    ['e/c', 'e/d'],
  ] as const) {
    nodeFs.rmSync(join(layers, two));
    nodeFs.linkSync(join(layers, one), join(layers, two));
  }
  const open = (spec: VlfsSpec): Client => new Client(spec, { passthrough });
  const host = join(box.dir, `host-${first.name}`);
  copyHost(layers, host);
  const sides: Side[] = [{ spec: first, host, client: open(first) }];
  try {
    for (const [i, one] of steps.entries()) {
      const side = sides[one.who % sides.length]!;
      const at = `${i}: ${JSON.stringify(one)}`;
      if ('clone' in one) {
        const before = attributes(side.client);
        const changes = diffVlfs(side.spec);
        side.client.close();
        side.spec = freeze(box, side.spec);
        side.client = open(side.spec);
        assert.deepEqual(attributes(side.client), before, `${at}: attributes of the source`);
        assert.deepEqual(diffVlfs(side.spec), changes, `${at}: changes of the source`);
        const spec = cloneOf(box, side.spec, `${first.name}-${sides.length}`);
        const copy = `${host}-${sides.length}`;
        copyHost(side.host, copy);
        sides.push({ spec, host: copy, client: open(spec) });
        assert.deepEqual(diffVlfs(spec), changes, `${at}: changes of the clone`);
      } else if ('o' in one && one.o.op === 'remount') {
        side.client.close();
        side.client = open(side.spec);
      } else if ('o' in one && answerable(side.host, one.o as never)) {
        const { o } = one as { o: Exclude<Operation, { op: 'remount' }> };
        const expected = answer(() => onHost(side.host, o));
        assert.equal(
          answer(() => onVlfs(side.client, o)),
          expected,
          at,
        );
      }
      if (i % 4 === 3)
        for (const { client, host: its } of sides) assert.deepEqual(vlfsTree(client), hostTree(its), at);
    }
    for (const { client, host: its, spec } of sides) {
      assert.deepEqual(vlfsTree(client), hostTree(its), 'at the end');
      client.close();
      const again = open(spec);
      assert.deepEqual(vlfsTree(again), hostTree(its), 'opened again');
      again.close();
    }
    for (const { client } of sides) assert.deepEqual(client.faults, []);
  } finally {
    for (const { client } of sides) client.close();
  }
}

test('clones, and clones of clones, behave as copies on the host file system', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 8, maxLength: 50 }),
        fc.boolean(),
        async (steps, passthrough) => {
          await play(box, box.spec(`r${run++}`, levels), steps, passthrough);
        },
      ),
      { numRuns: Number(process.env['STRATA_RANDOM_RUNS'] ?? 60) },
    );
  } finally {
    box.remove();
  }
});
