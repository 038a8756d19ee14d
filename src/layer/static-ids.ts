/**
 * User and group names whose numbers Debian fixes for every machine (base-passwd's passwd.master and group.master; Debian Policy 9.2.2).
 * Archives name owners by name and number; the name wins, as in dpkg, when it is one of these. Other names keep their number, because
 * only the appliance could say what they mean.
 */

const USERS = `root:0 daemon:1 bin:2 sys:3 sync:4 games:5 man:6 lp:7 mail:8 news:9 uucp:10 proxy:13 www-data:33 backup:34 list:38
irc:39 _apt:42 nobody:65534`;

const GROUPS = `root:0 daemon:1 bin:2 sys:3 adm:4 tty:5 disk:6 lp:7 mail:8 news:9 uucp:10 man:12 proxy:13 kmem:15 dialout:20
fax:21 voice:22 cdrom:24 floppy:25 tape:26 sudo:27 audio:29 dip:30 www-data:33 backup:34 operator:37 list:38 irc:39 src:40
shadow:42 utmp:43 video:44 sasl:45 plugdev:46 staff:50 games:60 users:100 nogroup:65534`;

function table(text: string): ReadonlyMap<string, number> {
  return new Map(
    text.split(/\s+/).map((pair) => {
      const [name, id] = pair.split(':');
      return [name!, Number(id)];
    }),
  );
}

const users = table(USERS);
const groups = table(GROUPS);

/** The user's number: the fixed one of `name`, else `id`. */
export function staticUid(name: string | undefined, id: number): number {
  return (name === undefined ? undefined : users.get(name)) ?? id;
}

/** The group's number: the fixed one of `name`, else `id`. */
export function staticGid(name: string | undefined, id: number): number {
  return (name === undefined ? undefined : groups.get(name)) ?? id;
}
