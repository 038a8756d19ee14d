/** POSIX access control lists: what they grant, how they are handed down, what they do to the mode. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { Topic } from './behaviour.ts';
import { ALICE, as, BOB, fails, STAFF, tool, withUmask } from './behaviour.ts';

const mode = (path: string) => fs.statSync(path).mode & 0o7777;

/** The entries of a list, without comments. */
function acl(path: string): string[] {
  return tool('getfacl', '-cpnE', path).split('\n').filter(Boolean);
}

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'content');
  fs.chmodSync(join(dir, 'f'), 0o600);
  fs.mkdirSync(join(dir, 'd'));
  fs.mkdirSync(join(dir, 'down'));
  fs.writeFileSync(join(dir, 'granted'), 'content');
  fs.chmodSync(join(dir, 'granted'), 0o600);
  fs.chownSync(join(dir, 'granted'), ALICE.uid, ALICE.gid);
  tool('setfacl', '-m', `u:${BOB.uid}:r,g:${STAFF}:rw`, join(dir, 'granted'));
  tool('setfacl', '-m', `u:${BOB.uid}:rwx`, join(dir, 'd'));
  tool('setfacl', '-d', '-m', `u::rwx,g::rx,o::-,u:${BOB.uid}:rwx`, join(dir, 'down'));
}

export const acls: Topic = {
  name: 'acls',
  plant,
  behaviours: {
    'an entry for a user or a group grants; a stranger is refused'(dir) {
      const file = join(dir, 'granted');
      as(BOB, () => assert.equal(fs.readFileSync(file, 'utf8'), 'content'));
      as(BOB, () => fails('EACCES', () => fs.openSync(file, 'r+')));
      as({ uid: 4003, gid: 4003, groups: [STAFF] }, () => fs.appendFileSync(file, ' more'));
      as({ uid: 4003, gid: 4003 }, () => fails('EACCES', () => fs.readFileSync(file)));
      assert.deepEqual(acl(file), [
        'user::rw-',
        `user:${BOB.uid}:r--`,
        'group::---',
        `group:${STAFF}:rw-`,
        'mask::rw-',
        'other::---',
      ]);
    },
    'a list is set, shows in the mode, and survives a write'(dir) {
      const file = join(dir, 'f');
      tool('setfacl', '-m', `u:${BOB.uid}:rw`, file);
      assert.equal(mode(file), 0o660, 'the group bits are the mask');
      as(BOB, () => fs.appendFileSync(file, '!'));
      assert.equal(fs.readFileSync(file, 'utf8'), 'content!');
      assert.equal(acl(file).includes(`user:${BOB.uid}:rw-`), true);
    },
    'chmod changes the mask, and setfacl -b takes all away'(dir) {
      const file = join(dir, 'granted');
      fs.chmodSync(file, 0o600);
      assert.ok(acl(file).includes('mask::---'));
      as(BOB, () => fails('EACCES', () => fs.readFileSync(file)));
      fs.chmodSync(file, 0o640);
      as(BOB, () => fs.readFileSync(file));
      tool('setfacl', '-b', file);
      assert.deepEqual(acl(file), ['user::rw-', 'group::---', 'other::---']);
      assert.equal(mode(file), 0o600);
    },
    'a list for a directory lets the user make files in it'(dir) {
      as(BOB, () => fs.writeFileSync(join(dir, 'd/bobs'), ''));
      as(ALICE, () => fails('EACCES', () => fs.writeFileSync(join(dir, 'd/alices'), '')));
      as(BOB, () => fs.renameSync(join(dir, 'd/bobs'), join(dir, 'd/renamed')));
      as(BOB, () => fs.unlinkSync(join(dir, 'd/renamed')));
    },
    'a default list is handed down in place of the umask'(dir) {
      withUmask(0o077, () => {
        fs.closeSync(fs.openSync(join(dir, 'down/file'), 'wx', 0o666));
        fs.mkdirSync(join(dir, 'down/sub'), 0o777);
        fs.closeSync(fs.openSync(join(dir, 'down/sub/below'), 'wx', 0o640));
        tool('mkfifo', join(dir, 'down/fifo'));
      });
      assert.equal(mode(join(dir, 'down/file')), 0o660);
      assert.deepEqual(acl(join(dir, 'down/file')), [
        'user::rw-',
        `user:${BOB.uid}:rwx`,
        'group::r-x',
        'mask::rw-',
        'other::---',
      ]);
      assert.ok(acl(join(dir, 'down/sub')).includes(`default:user:${BOB.uid}:rwx`));
      assert.equal(mode(join(dir, 'down/sub')), 0o770);
      assert.equal(mode(join(dir, 'down/sub/below')), 0o640);
      assert.equal(mode(join(dir, 'down/fifo')), 0o660);
      as(BOB, () => fs.appendFileSync(join(dir, 'down/file'), 'x'));
      as(BOB, () => fs.writeFileSync(join(dir, 'down/sub/bobs'), ''));
    },
    'a default list is handed down to what takes the place of something deleted'(dir) {
      fs.writeFileSync(join(dir, 'down/again'), '');
      fs.unlinkSync(join(dir, 'down/again'));
      withUmask(0o077, () => fs.mkdirSync(join(dir, 'down/again'), 0o777));
      assert.equal(mode(join(dir, 'down/again')), 0o770);
      assert.ok(acl(join(dir, 'down/again')).includes(`default:user:${BOB.uid}:rwx`));
    },
    'without its default list a directory follows the umask again'(dir) {
      tool('setfacl', '-k', join(dir, 'down'));
      withUmask(0o077, () => fs.mkdirSync(join(dir, 'down/plain'), 0o777));
      assert.equal(mode(join(dir, 'down/plain')), 0o700);
      tool('setfacl', '-d', '-m', `u:${BOB.uid}:rwx`, join(dir, 'down'));
      withUmask(0o077, () => fs.mkdirSync(join(dir, 'down/acl'), 0o777));
      assert.ok(acl(join(dir, 'down/acl')).includes(`default:user:${BOB.uid}:rwx`));
    },
    'only the owner sets a list'(dir) {
      as(BOB, () =>
        assert.throws(() =>
          tool('setpriv', '--reuid=4002', '--clear-groups', 'setfacl', '-m', 'o::rwx', join(dir, 'granted')),
        ),
      );
      tool(
        'setpriv',
        '--reuid=4001',
        '--regid=4001',
        '--clear-groups',
        'setfacl',
        '-m',
        'o::r',
        join(dir, 'granted'),
      );
      assert.equal(mode(join(dir, 'granted')), 0o664);
    },
    'a list set by a stranger to the group ends set-group-id'(dir) {
      const file = join(dir, 'granted');
      fs.chownSync(file, ALICE.uid, STAFF);
      fs.chmodSync(file, 0o2770);
      tool('setpriv', '--reuid=4001', '--regid=4001', '--clear-groups', 'setfacl', '-m', 'u:4002:rwx', file);
      assert.equal(mode(file) & 0o2000, 0);
    },
    'cp -a takes the list along'(dir) {
      tool('cp', '-a', join(dir, 'granted'), join(dir, 'copy'));
      assert.deepEqual(acl(join(dir, 'copy')), acl(join(dir, 'granted')));
      tool('cp', '-a', join(dir, 'down'), join(dir, 'copied'));
      assert.deepEqual(acl(join(dir, 'copied')), acl(join(dir, 'down')));
    },
  },
};
