/** How long what was deleted stays deleted: as long as the layer version it hides; and what was renamed away as long as it is elsewhere. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { PENDING } from '../contract.ts';
import { diffVlfs, pruneWhiteouts } from '../index.ts';
import { prepareVlfs } from '../open-core.ts';
import { freeze } from '../test-support/frozen.test-support.ts';
import { Client, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';

test(
  'a deletion lasts as long as the layer version it hides',
  sandboxed(async (box) => {
    const a1 = await box.unit('a', '1', { 'etc/conf': 'one', 'bin/tool': 'one', 'share/doc/x': 'x' });
    const a2 = await box.unit('a', '2', { 'etc/conf': 'two', 'bin/tool': 'two', 'share/doc/x': 'x2' });
    const b = await box.unit('b', '1', { 'bin/other': 'b', 'share/doc/y': 'y' });
    const spec = box.spec('one', [a1, b]);
    const c = new Client(spec);
    c.unlink('bin/tool');
    c.unlink('bin/other');
    for (const path of ['share/doc/x', 'share/doc/y']) c.unlink(path);
    c.rmdir('share/doc');
    assert.ok(existsSync(join(spec.whiteoutsDir, 'main/a_1/bin/tool')));
    assert.deepEqual(
      readdirSync(join(spec.whiteoutsDir, 'main/b_1/share')),
      ['doc'],
      'one mark for a directory',
    );
    assert.deepEqual(c.readdir('bin'), []);
    c.fs.relayer(stackOf([a2, b]));
    assert.deepEqual(c.readdir('bin'), ['tool'], 'the upgraded file is back, that of the other layer is not');
    assert.deepEqual(c.readdir('share/doc'), ['x']);
    assert.ok(!existsSync(join(spec.whiteoutsDir, 'main/a_1')), 'the set went with its layer');
    c.close();
    assert.equal(pruneWhiteouts({ ...spec, stack: stackOf([a2]) }), 1);
  }),
);

test(
  'a directory that was renamed and then deleted comes back with the next version of its layer, not before',
  sandboxed(async (box) => {
    const a1 = await box.unit('a', '1', { 'opt/app/f': 'one', 'opt/app/lib/l': 'one' });
    const a2 = await box.unit('a', '2', { 'opt/app/f': 'two', 'opt/app/lib/l': 'two' });
    const remove = (c: Client, dir: string): void => {
      for (const name of c.readdir(dir)) {
        if ((c.stat(`${dir}/${name}`).mode & 0o170000) === 0o040000) remove(c, `${dir}/${name}`);
        else c.unlink(`${dir}/${name}`);
      }
      c.rmdir(dir);
    };
    const endings: Record<string, (c: Client) => void> = {
      rmdir: (c) => remove(c, 'moved'),
      'replaced by a directory'(c) {
        remove(c, 'moved/lib');
        c.unlink('moved/f');
        c.mkdir('new');
        c.rename('new', 'moved');
        c.rmdir('moved');
      },
      'renamed again, below a directory that was renamed too'(c) {
        c.rename('opt', 'usr');
        c.rename('moved', 'usr/moved');
        remove(c, 'usr/moved');
        c.rename('usr', 'opt');
      },
      'the old place was used again'(c) {
        c.mkdir('opt/app');
        c.write('opt/app/own', '');
        remove(c, 'moved');
        c.unlink('opt/app/own');
      },
    };
    for (const [name, end] of Object.entries(endings)) {
      const spec = box.spec(name.replaceAll(/\W/g, ''), [a1]);
      let c = new Client(spec);
      c.rename('opt/app', 'moved');
      end(c);
      assert.equal(c.exists('opt/app/f'), false, name);
      c.close();
      c = new Client(spec);
      assert.equal(c.exists('opt/app/f'), false, `${name}, opened again`);
      c.fs.relayer(stackOf([a2]));
      assert.equal(c.read('opt/app/f'), 'two', `${name}, upgraded`);
      assert.equal(c.read('opt/app/lib/l'), 'two', name);
      assert.equal(c.exists('moved'), false, name);
      c.close();
    }
  }),
);

test(
  'while a renamed directory is there, its old place stays free in every version, whatever was put there and deleted',
  sandboxed(async (box) => {
    const a1 = await box.unit('a', '1', { 'app/f': 'one' });
    const a2 = await box.unit('a', '2', { 'app/f': 'two' });
    const uses: Record<string, (c: Client) => void> = {
      none: () => {},
      file(c) {
        c.write('app', 'own');
        c.unlink('app');
      },
      directory(c) {
        c.mkdir('app');
        c.rmdir('app');
      },
      'file renamed away'(c) {
        c.write('app', 'own');
        c.rename('app', 'own');
      },
      'directory renamed away'(c) {
        c.mkdir('app');
        c.rename('app', 'own');
      },
    };
    for (const [name, use] of Object.entries(uses)) {
      const c = new Client(box.spec(name.replaceAll(' ', ''), [a1]));
      c.rename('app', 'moved');
      use(c);
      assert.equal(c.exists('app'), false, name);
      c.fs.relayer(stackOf([a2]));
      assert.equal(c.exists('app'), false, `${name}, upgraded`);
      assert.equal(c.read('moved/f'), 'two', name);
      c.close();
    }
  }),
);

test(
  'what an appliance hides is read in short steps before its opening',
  sandboxed(async (box) => {
    const names = Array.from({ length: 3000 }, (_, i) => `d${i % 3}/f${i}`);
    const spec = box.spec('many', [
      await box.unit('a', '1', Object.fromEntries(names.map((name) => [name, 'x']))),
    ]);
    const first = new Client(spec);
    for (const name of names.slice(5)) first.unlink(name);
    const shown = first.tree();
    first.close();
    const prepared = prepareVlfs(spec);
    let steps = 1;
    let hidden = prepared.step(0);
    for (; hidden === null; steps++) hidden = prepared.step(0);
    assert.ok(steps > 10, `${steps}`);
    assert.equal(hidden.count, names.length - 5);
    const c = new Client(spec, { hidden });
    prepared.release();
    assert.deepEqual(c.tree(), shown);
    c.close();
    assert.deepEqual(c.faults, []);
  }),
);

test(
  'a file that many frozen layers hold is removed by a few marks at a time, and shows until the last',
  sandboxed(async (box) => {
    let spec = box.spec('deep', [await box.unit('a', '1', { f: 'layer', 'd/g': 'layer' })]);
    const layers = 100;
    for (let i = 0; i < layers; i++) {
      const c = new Client(spec);
      for (const path of ['f', 'd/g']) c.write(path, `${i}`);
      c.close();
      spec = freeze(box, spec);
    }
    let marks = 0;
    let most = 0;
    const c = new Client(spec, {
      onStep: (what) => {
        if (what.startsWith('whiteout')) most = Math.max(most, ++marks);
      },
    });
    c.unlink('d/g');
    const before = diffVlfs(spec);
    const remove = (name: string): void => {
      let jobs = 0;
      for (;;) {
        marks = 0;
        const done = c.fs.unlink(c.caller, 1, name as never);
        if (done === 0) break;
        assert.equal(done, PENDING);
        const job = c.caller.job!;
        assert.ok(job.kind === 'steps');
        for (let went: number | null = null; went === null; jobs++) {
          marks = 0;
          went = job.advance(0);
          assert.ok(c.exists(name));
          assert.deepEqual(diffVlfs(spec), before);
        }
      }
      assert.ok(jobs > 1, `${jobs}`);
      assert.ok(!c.exists(name));
    };
    most = 0;
    remove('f');
    assert.ok(most <= 40, `${most} marks at once`);
    const tree = c.tree();
    c.close();
    const again = new Client(spec);
    assert.deepEqual(again.tree(), tree);
    again.close();
    assert.deepEqual(c.faults, []);
  }),
);
