/**
 * A state root on a file system with shared extents and a quota (btrfs): copy-up and copies share the blocks, and at the limit of the quota every
 * operation either works or says EDQUOT, without damage. (Linux does not pass FICLONE to a FUSE server: programs go on with copy_file_range.)
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { copyFileRange } from '../../../src/sys/index.ts';
import { sh } from '../../helpers/strata.ts';
import { ok, tool, withFile } from './behaviour.ts';
import { openWorkshop } from './places.ts';

const { strata, dir, at, remove } = openWorkshop();
const disk = at('disk');
const root = join(disk, 'state');
const mnt = at('mnt');
const MIB = 1 << 20;
const LARGE = 24 * MIB;
/** libuv has no name for it. */
const EDQUOT = 122;

async function run(...args: string[]): Promise<void> {
  const outcome = await strata.run(['--root', root, ...args]);
  assert.equal(outcome.status, 0, `strata ${args.join(' ')}: ${outcome.stderr}${outcome.stdout}`);
}

async function script(text: string): Promise<void> {
  const { status, stderr } = await sh(`set -e; ${text}`);
  assert.equal(status, 0, stderr);
}

before(async () => {
  for (const name of [disk, mnt]) fs.mkdirSync(name);
  await script(
    `truncate -s 512M ${dir}/image; mkfs.btrfs -q ${dir}/image; mount -o loop ${dir}/image ${disk}
     btrfs quota enable ${disk}; btrfs subvolume create ${root} >/dev/null`,
  );
  const tree = at('tree');
  fs.mkdirSync(join(tree, 'd'), { recursive: true });
  for (const name of ['one', 'two']) fs.writeFileSync(join(tree, name), Buffer.alloc(LARGE, name));
  for (let i = 0; i < 50; i++) fs.writeFileSync(join(tree, `d/f${i}`), `file ${i}`.repeat(1000));
  await run('repo', 'add', 'local', join(disk, 'units'));
  await run('layer', 'build', tree, '--repo', 'local', '--name', 'l', '--version', '1');
  await run('template', 'create', 't', 'l');
  await run('create', 'a', '--template', 't');
  await run('mount', 'a', mnt);
});
after(async () => {
  await strata.run(['--root', root, 'daemon', 'stop', '--force']);
  await sh(`umount -l ${mnt}; umount ${disk} || umount -l ${disk}`);
  await remove();
});

/** Bytes that a change takes on the disk. */
function taken(change: () => void): number {
  const used = () => {
    tool('sync', '-f', disk);
    const { blocks, bfree, bsize } = fs.statfsSync(disk);
    return (blocks - bfree) * bsize;
  };
  const start = used();
  change();
  return used() - start;
}

test('copy-up and copies within an appliance share the blocks of the file', () => {
  const copyUp = taken(() => withFile(join(mnt, 'one'), 'r+', (fd) => fs.writeSync(fd, 'X', 5 * MIB)));
  assert.ok(copyUp < LARGE / 4, `a copy-up took ${copyUp} bytes`);
  const copied = taken(() => tool('cp', '--reflink=auto', join(mnt, 'one'), join(mnt, 'copied')));
  assert.ok(copied < LARGE / 4, `cp took ${copied} bytes`);
  const ranged = taken(() =>
    withFile(join(mnt, 'one'), 'r', (from) =>
      withFile(join(mnt, 'ranged'), 'w', (to) => {
        for (let done = 0; done < LARGE; ) done += ok(copyFileRange(from, done, to, done, LARGE - done));
      }),
    ),
  );
  assert.ok(ranged < LARGE / 4, `copy_file_range took ${ranged} bytes`);
  const expected = Buffer.alloc(LARGE, 'one');
  expected.write('X', 5 * MIB);
  for (const name of ['one', 'copied', 'ranged']) {
    assert.ok(fs.readFileSync(join(mnt, name)).equals(expected), name);
    fs.unlinkSync(join(mnt, name));
  }
});

/** Runs a change; true when it was done, false when the quota was used up. */
function done(change: () => void): boolean {
  try {
    change();
    return true;
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).errno, -EDQUOT, String(error));
    return false;
  }
}

test('at the limit of a quota: EDQUOT or done, nothing is damaged, and with room again everything goes on', async () => {
  await script(`sync -f ${disk}; btrfs qgroup limit 24M ${root}`);
  const full = join(mnt, 'full');
  let size = 0;
  withFile(full, 'w', (fd) => {
    for (let piece = MIB; piece >= 4096; ) {
      const fits = done(() => {
        size += fs.writeSync(fd, Buffer.alloc(piece, 'f'), 0, piece, size);
      });
      if (!fits) piece /= 2;
    }
    assert.ok(size > 4 * MIB && size <= 24 * MIB, `${size} bytes`);
  });
  assert.ok(fs.readFileSync(full).equals(Buffer.alloc(size, 'f')));
  const kept = new Map<string, string>();
  for (let i = 0; i < 50; i++) {
    const file = join(mnt, `d/f${i}`);
    const content = `file ${i}`.repeat(1000);
    const appended = done(() => fs.appendFileSync(file, 'appended'.repeat(2000)));
    const now = fs.readFileSync(file, 'latin1');
    assert.ok(now.startsWith(content), file);
    if (appended) assert.equal(now.length, content.length + 16_000);
    kept.set(file, now);
    done(() => fs.mkdirSync(join(mnt, `d/new${i}`)));
    if (done(() => fs.renameSync(file, `${file}.moved`))) {
      kept.delete(file);
      kept.set(`${file}.moved`, now);
    }
  }
  assert.ok(fs.readFileSync(join(mnt, 'two')).equals(Buffer.alloc(LARGE, 'two')));
  await script(`btrfs qgroup limit none ${root}`);
  fs.unlinkSync(full);
  await run('umount', 'a');
  await run('mount', 'a', mnt);
  for (const [file, content] of kept) assert.equal(fs.readFileSync(file, 'latin1'), content, file);
  for (const file of kept.keys()) fs.appendFileSync(file, '!');
  assert.equal(fs.existsSync(full), false);
});
