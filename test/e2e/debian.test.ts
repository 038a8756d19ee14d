/**
 * A real Debian userland on the layered file system: templates from the host's own archive, configured by dpkg, run in containers. The
 * oracles are Debian's own tools inside the appliance.
 */
import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { killDuring } from '../helpers/kills.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('debian');
after(() => s.remove());

let codename = '';
const inside = async (name: string, script: string) => {
  const outcome = await s.run(['run', name, '--', '/bin/sh', '-ec', script], { timeoutMs: 300_000 });
  assert.equal(outcome.status, 0, `${script}\n${outcome.stdout}\n${outcome.stderr}`);
  return outcome.stdout;
};

before(async () => {
  codename = (await sh('. /etc/os-release && echo $VERSION_CODENAME')).stdout.trim();
  await s.json('repo', 'add', 'main', `apt:${codename}`);
  await s.json(
    'template',
    'create',
    'dev',
    'gcc',
    'libc6-dev',
    'git',
    'python3',
    'nginx-light',
    'mariadb-server',
    'curl',
    'procps',
  );
  await s.json('create', 'dev', '--template', 'dev', '--count', '2');
});

test('dpkg inside an appliance tells the truth', async () => {
  const listed = await inside('dev-1', `dpkg-query -W -f '\${db:Status-Abbrev} \${Package} \${Version}\\n'`);
  const lines = listed.trim().split('\n');
  assert.deepEqual(
    lines.filter((l) => !l.startsWith('ii ')),
    [],
  );
  const shown = await s.json('template', 'show', 'dev');
  const wanted = [...shown.explicit, ...shown.implicit].map(
    (l: { layer: string; version: string }) => `${l.layer} ${l.version}`,
  );
  const got = lines.map((l) =>
    l
      .slice(4)
      .trim()
      .replace(/^(\S+?):\S+ /, '$1 '),
  );
  assert.deepEqual(got.sort(), wanted.sort());
  assert.equal((await inside('dev-1', 'dpkg --audit')).trim(), '');
  await inside('dev-1', 'apt-get check');
});

test('files agree with the packages: dpkg --verify and debsums-like md5sums', async () => {
  const out = await inside('dev-1', 'dpkg --verify || true');
  const changed = out.split('\n').filter((l) => l !== '' && !/ c \//.test(l));
  assert.deepEqual(changed, []);
});

test('perl, python3, gcc and git work', async () => {
  assert.match(await inside('dev-1', `perl -MPOSIX -e 'print strftime("%Y", gmtime(0))'`), /1970/);
  assert.match(
    await inside('dev-1', `python3 -c 'import json, ssl, sqlite3; print(json.dumps({"ok": 1}))'`),
    /"ok": 1/,
  );
  await inside(
    'dev-1',
    `cd /root && printf '#include <stdio.h>\\nint main(){puts("built");return 0;}' > a.c && gcc -O2 -o a a.c && ./a | grep built`,
  );
  await inside(
    'dev-1',
    `cd /root && git init -q r && cd r && git config user.email a@b && git config user.name a && for i in 1 2 3 4 5; do seq $i > f$i; git add .; git commit -qm $i; done && git gc -q && git fsck --strict && git log --oneline | wc -l | grep 5`,
  );
});

test('mariadb initialises, serves transactions and survives a restart', async () => {
  const out = await inside(
    'dev-1',
    `mkdir -p /run/mysqld && chown mysql /run/mysqld
     start() { mariadbd-safe --user=mysql >/dev/null 2>&1 & for i in $(seq 100); do mariadb-admin ping >/dev/null 2>&1 && break; sleep 0.2; done; }
     start; mariadb -e 'create database if not exists d; create table d.t (i int primary key, s text) engine=innodb'
     for i in 1 2 3; do mariadb -e "insert into d.t select seq + $i * 1000, repeat('x', 500) from (with recursive r(seq) as (select 1 union all select seq + 1 from r where seq < 900) select seq from r) q"; done
     mariadb-admin shutdown; sleep 1; start; mariadb -N -e 'select count(*), sum(length(s)) from d.t; check table d.t'; mariadb-admin shutdown`,
  );
  assert.match(out, /2700\s+1350000/);
  assert.match(out, /status\s+OK/);
});

test('mariadb loses no transaction, and does none twice, when strata-fs and stratad are killed under it', async (t) => {
  const seconds = Number(process.env['STRATA_TAKEOVER_SECONDS'] ?? 5);
  const work = inside(
    'dev-2',
    `mkdir -p /run/mysqld && chown mysql /run/mysqld
     start() { mariadbd --user=mysql >/tmp/mariadbd.out 2>&1 & server=$!; for i in $(seq 300); do mariadb-admin ping >/dev/null 2>&1 && break; sleep 0.1; done; }
     start
     mariadb <<'END'
create database d; use d;
create table account (id int primary key, v int) engine=innodb;
create table moved (id int auto_increment primary key, client int, n int, unique (client, n)) engine=innodb;
insert into account select seq, 1000 from (with recursive r(seq) as (select 0 union all select seq + 1 from r where seq < 19) select seq from r) q;
delimiter //
create procedure work(me int, until_time datetime(3)) begin
  declare n, a, b, c int default 0;
  while now(3) < until_time do
    set n = n + 1, a = floor(rand() * 20), b = floor(rand() * 20);
    start transaction;
    select count(*) into c from account where id in (a, b) for update;
    update account set v = v - 1 where id = a;
    update account set v = v + 1 where id = b;
    insert into moved (client, n) values (me, n);
    commit;
  end while;
  select concat('done ', n);
end //
END
     touch /tmp/working; end=$(date -d '+${seconds} seconds' '+%F %T'); clients=
     for i in 1 2 3; do mariadb -N -e "call work($i, '$end')" d >/tmp/client$i & clients="$clients $!"; done
     for pid in $clients; do wait $pid; done
     told=$(awk '/^done/ { s += $2 } END { print s }' /tmp/client*)
     check() { mariadb -N -e 'select concat("sum ", sum(v)) from account; select concat("moved ", count(*)) from moved; check table account extended; check table moved extended' d; }
     touch /tmp/finished; echo "told $told"; check
     kill -9 $server; wait $server || true; start; check; mariadb-admin shutdown`,
  );
  const at = (state: string): boolean => existsSync(join(s.root, 'appliances/dev-2/private/tmp', state));
  let ended = false;
  const done = (): void => {
    ended = true;
  };
  work.then(done, done);
  await until('the transactions begin', () => ended || at('working'));
  const kills = await killDuring(s.root, work, () => at('finished'));
  const out = await work;
  const told = /told (\d+)/.exec(out)?.[1];
  t.diagnostic(`${told} transactions, ${kills} kills`);
  assert.ok(kills > 0 && Number(told) > 0, out);
  // While it serves, and after the database itself was killed.
  assert.equal(out.match(/sum 20000/g)?.length, 2, out);
  assert.deepEqual(out.match(/moved \d+/g), [`moved ${told}`, `moved ${told}`], out);
  assert.equal(out.match(/status\s+OK/g)?.length, 4, out);
});

test('apt installs and removes a package inside one appliance; the other does not see it; a template update keeps it', async () => {
  await inside('dev-1', 'apt-get update -qq >/dev/null 2>&1 || true; true');
  // The appliance has no package source of its own; give it the .deb.
  const deb = await sh(`cd ${s.root} && apt-get download -q hello >/dev/null 2>&1; ls ${s.root}/hello_*.deb`);
  const mounted = join(s.root, 'view');
  await sh(`mkdir -p ${mounted}`);
  await s.json('mount', 'dev-1', mounted);
  await sh(`cp ${deb.stdout.trim()} ${mounted}/root/hello.deb`);
  await inside('dev-1', 'dpkg -i /root/hello.deb && hello | grep -i hello');
  assert.match(await inside('dev-1', 'dpkg -s hello'), /install ok installed/);
  assert.equal((await s.run(['run', 'dev-2', '--', 'test', '-e', '/usr/bin/hello'])).status, 1);

  // A new version of a layer, as a maintainer would publish it.
  const work = join(s.root, 'work');
  await sh(
    `mkdir -p ${work} && cd ${work} && apt-get download -q tar && dpkg-deb -R tar_*.deb t && sed -i 's/^Version: .*/&+strata1/' t/DEBIAN/control && echo patched > t/usr/share/doc/tar/PATCHED && dpkg-deb -Zgzip -b t new.deb`,
  );
  await s.json('repo', 'add', 'patches', join(s.root, 'patches'));
  await s.json('layer', 'import', join(work, 'new.deb'), '--repo', 'patches');
  const update = await s.json('update');
  assert.deepEqual(update.appliances.held_back, []);
  assert.equal(
    update.templates[0].changes.some(
      (c: { layer: string; to: string }) => /tar/.test(c.layer) && /strata1$/.test(c.to),
    ),
    true,
  );
  for (const name of ['dev-1', 'dev-2']) {
    assert.match(
      await inside(name, `dpkg-query -W -f '\${db:Status-Abbrev}\${Version}' tar`),
      /^ii .*strata1$/,
    );
    assert.match(await inside(name, 'cat /usr/share/doc/tar/PATCHED'), /patched/);
  }
  assert.match(await inside('dev-1', 'hello; dpkg -s hello'), /install ok installed/);
  await inside('dev-1', 'apt-get remove -y hello && ! test -e /usr/bin/hello');
  await s.json('umount', mounted);
});

test('a user made inside one appliance and a system user that the template adds later live together', async () => {
  await inside('dev-1', 'useradd --create-home alice');
  await s.json('template', 'add', 'dev', 'dbus');
  assert.match(await inside('dev-1', 'getent passwd alice messagebus'), /alice.*\n.*messagebus/);
  assert.match(await inside('dev-1', 'getent group messagebus && dpkg-query -W dbus'), /dbus/);
  assert.equal((await s.run(['run', 'dev-2', '--', 'getent', 'passwd', 'alice'])).status, 2);
  await s.json('template', 'remove', 'dev', 'dbus');
  assert.match(await inside('dev-1', 'getent passwd alice && ! dpkg-query -W dbus 2>/dev/null'), /alice/);
});

test('nginx serves from the appliance, and a changed page shows as a private change', async () => {
  writeFileSync(join(s.root, 'site'), 'server { listen 127.0.0.1:18080; root /srv; }\n');
  const server = s.start([
    'run',
    'dev-2',
    '--',
    '/bin/sh',
    '-c',
    `mkdir -p /srv && echo from-strata > /srv/index.html && printf 'server { listen 127.0.0.1:18080; root /srv; }' > /etc/nginx/sites-enabled/default && exec nginx -g 'daemon off;'`,
  ]);
  try {
    let page = '';
    await until('it answers', async () => {
      page = (await sh('curl -sf http://127.0.0.1:18080/')).stdout;
      return page !== '';
    });
    assert.equal(page, 'from-strata\n');
    const { entries } = await s.json('diff', 'dev-2', '/srv');
    assert.ok(
      entries.some(
        (e: { path: string; change: string }) => /srv\/index.html$/.test(e.path) && e.change === 'added',
      ),
    );
  } finally {
    server.kill('SIGTERM');
  }
});

test('a container cannot reach the host', async () => {
  const outcome = await s.run([
    'run',
    'dev-2',
    '--',
    '/bin/sh',
    '-c',
    'mount -t tmpfs x /mnt || echo no-mount; test -e /work || echo no-host; ls /proc | grep -c "^[0-9]"',
  ]);
  assert.match(outcome.stdout, /no-mount/);
  assert.match(outcome.stdout, /no-host/);
});

test('why names the package of a path', async () => {
  const why = await s.json('why', 'dev-2', '/usr/bin/git');
  assert.match(why.unit, /^main\/git /);
  assert.equal(why.private, false);
});

test('after all this the files are sound, and gc takes away nothing that is used', async () => {
  const found = await s.run(['fsck']);
  assert.equal(found.status, 0, found.stdout + found.stderr);
  await s.json('gc', '--keep', '1');
  const after = await s.run(['fsck']);
  assert.equal(after.status, 0, after.stdout + after.stderr);
  const verified = await s.run(['run', 'dev-2', '--', 'dpkg', '--verify', 'git', 'perl-base']);
  assert.equal(verified.status, 0, verified.stdout + verified.stderr);
});
