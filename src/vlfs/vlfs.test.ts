import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diffVlfs } from './index.ts';
import { Client, makeSandbox, stackOf } from './vlfs.test-support.ts';

test('smoke', async () => {
  const box = makeSandbox();
  try {
    const a = await box.unit('a', '1', {
      'etc/a.conf': 'a1',
      'usr/bin/a': 'bin a',
      'usr/share/doc/x/README': 'x',
    });
    const b = await box.unit('b', '1', {
      'etc/b.conf': 'b1',
      'usr/bin/b': 'bin b',
      'etc/h1': 'hard',
      'etc/h2': { hard: 'etc/h1' },
    });
    const a2 = await box.unit('a', '2', {
      'etc/a.conf': 'a2',
      'usr/bin/a': 'bin a2',
      'usr/share/doc/x/README': 'x2',
      'etc/new': 'n',
    });
    const spec = box.spec('one', [a, b]);
    const c = new Client(spec);
    assert.deepEqual(c.readdir('etc'), ['a.conf', 'b.conf', 'h1', 'h2']);
    assert.equal(c.read('etc/a.conf'), 'a1');
    c.write('etc/a.conf', 'mine');
    c.append('etc/b.conf', '+');
    c.unlink('usr/bin/a');
    c.rename('usr/share', 'usr/moved');
    assert.equal(c.read('usr/moved/doc/x/README'), 'x');
    assert.ok(!c.exists('usr/share'));
    c.write('etc/h1', 'H');
    assert.equal(c.read('etc/h2'), 'H');
    c.mkdir('usr/share');
    assert.deepEqual(c.readdir('usr/share'), []);
    console.log(c.tree());
    console.log(diffVlfs(spec));
    c.fs.relayer(stackOf([a2, b]));
    console.log(c.tree());
    console.log(c.fs.revert(['/etc/h2', '/etc']), c.fs.stats());
    console.log(c.tree());
    c.close();
    const d = new Client({ ...spec, stack: stackOf([a2, b]) });
    console.log(d.tree(), d.faults);
    d.fs.reset([]);
    console.log(d.tree(), d.faults);
    d.close();
  } finally {
    box.remove();
  }
});
