/** Sizes of appliances, with du and the file system's own count as judges: what is exclusive comes back, what is shared does not. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, readdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

const KIB = 1024;

function sh(script: string): string {
  return execFileSync('/bin/bash', ['-ec', script], { encoding: 'utf8' });
}

const du = (...dirs: string[]): number => Number(sh(`du -s -B1 -c ${dirs.join(' ')} | tail -1 | cut -f1`));

async function withWorld(body: (w: World) => Promise<void>): Promise<void> {
  const w = await makeWorld();
  try {
    await w.build('base', '1', { 'etc/motd': 'base' });
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    await body(w);
  } finally {
    await w.remove();
  }
}

function put(w: World, name: string, path: string, kib: number): string {
  const file = join(w.root, 'appliances', name, 'private', path);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, Buffer.alloc(kib * KIB, path));
  return file;
}

test('exclusive is what a deletion gives back, shared what clones and snapshots keep', async () => {
  await withWorld(async (w) => {
    await w.fleet.create({ name: 'a', template: 't' }, noProgress);
    const file = put(w, 'a', 'srv/data', 400);
    linkSync(file, join(file, '../link'));
    const alone = await w.fleet.show('a');
    assert.equal(alone.exclusive_bytes, du(join(w.root, 'appliances/a')));
    assert.deepEqual([alone.shared_bytes, alone.shared_with], [0, []]);
    await w.fleet.clone({ source: 'a', name: 'b' }, noProgress);
    put(w, 'b', 'own', 100);
    await w.fleet.clone({ source: 'b', name: 'c' }, noProgress);
    put(w, 'c', 'more', 40);
    const list = new Map((await w.fleet.list({ sizes: true })).appliances.map((one) => [one.name, one]));
    const frozen = readdirSync(join(w.root, 'frozen')).filter((id) => !id.startsWith('.'));
    for (const [name, layers] of [
      ['a', 1],
      ['b', 2],
      ['c', 2],
    ] as const) {
      const one = await w.fleet.show(name);
      assert.equal(one.shared_with!.length, layers, name);
      assert.equal(one.exclusive_bytes, du(join(w.root, 'appliances', name)), name);
      assert.equal(list.get(name)!.exclusive_bytes, one.exclusive_bytes);
      assert.equal(list.get(name)!.shared_bytes, one.shared_bytes);
      assert.equal(
        one.shared_with!.reduce((sum, { bytes }) => sum + bytes, 0),
        one.shared_bytes,
      );
    }
    assert.equal(frozen.length, 2);
    assert.deepEqual((await w.fleet.show('a')).shared_with![0]!.appliances, ['b', 'c']);
    assert.equal((await w.fleet.list()).appliances[0]!.exclusive_bytes, undefined);
    // The last who has a layer has it alone.
    await w.fleet.delete(['a', 'b']);
    const last = await w.fleet.show('c');
    assert.equal(last.shared_bytes, 0);
    const dirs = frozen.map((id) => join(w.root, 'frozen', id));
    assert.equal(last.exclusive_bytes, du(join(w.root, 'appliances/c'), ...dirs));
  });
});

test('names elsewhere, and an import that clones share', async () => {
  await withWorld(async (w) => {
    const dir = join(w.dir, 'rootfs');
    mkdirSync(dir);
    writeFileSync(join(dir, 'big'), Buffer.alloc(300 * KIB, 'b'));
    await w.fleet.importDir({ source: dir, name: 'l', how: 'link' }, noProgress);
    const linked = await w.fleet.show('l');
    // Deleting it frees nothing of the file, which the directory has too.
    assert.ok(linked.exclusive_bytes! < 200 * KIB && linked.shared_bytes! >= 300 * KIB);
    await w.fleet.importDir({ source: dir, name: 'i' }, noProgress);
    assert.ok((await w.fleet.show('i')).exclusive_bytes! >= 300 * KIB);
    await w.fleet.clone({ source: 'i', name: 'j' }, noProgress);
    const shared = await w.fleet.show('i');
    assert.ok(shared.exclusive_bytes! < 200 * KIB && shared.shared_bytes! >= 300 * KIB);
    assert.match(shared.shared_with![0]!.layer, /^imports\//);
  });
});

test('blocks that are shared by reflink are not exclusive', async () => {
  await withWorld(async (w) => {
    const image = join(w.dir, 'disk');
    const mnt = join(w.root, 'appliances', 'x');
    sh(`truncate -s 300M '${image}'; mkfs.xfs -q -m reflink=1 '${image}'`);
    await w.fleet.create({ name: 'x', template: 't' }, noProgress);
    const state = sh(`cat '${mnt}/state.json'`);
    sh(`mount -o loop '${image}' '${mnt}'`);
    try {
      mkdirSync(join(mnt, 'private'));
      writeFileSync(join(mnt, 'state.json'), state);
      writeFileSync(join(mnt, 'ldf'), '@t\n');
      writeFileSync(join(mnt, 'private/one'), Buffer.alloc(4096 * KIB, 'x'));
      sh(
        `sync -f '${mnt}'; cp --reflink=always '${mnt}/private/one' '${mnt}/private/two'; printf y | dd of='${mnt}/private/two' conv=notrunc bs=1M seek=1 2>/dev/null; sync -f '${mnt}'`,
      );
      const { exclusive_bytes, shared_bytes } = await w.fleet.show('x');
      assert.ok(exclusive_bytes! < 512 * KIB, `${exclusive_bytes}`);
      assert.ok(shared_bytes! > 7 * 1024 * KIB, `${shared_bytes}`);
      assert.ok(statfsSync(mnt).blocks > 0);
    } finally {
      sh(`umount '${mnt}'`);
    }
  });
});
