/**
 * The shell script that carries a plan out inside the container. One run for everything: a container per script would cost more than
 * the scripts. It keeps true: everything is written from inside the root file system, so no link of a package leads out of it; the
 * first failure ends the run with exit status FAILED and names its script in the step log.
 * The work directory is mounted at WORK, on the container's own /dev, and leaves no trace in the root file system.
 */
import type { Plan, Step } from './plan.ts';
import { scriptLabel } from './plan.ts';
import { DPKG_SCRIPT, type ScriptName, type UnitFacts } from './unit-facts.ts';

/** What a service that a script wants to start is told: not here. */
export const POLICY = '#!/bin/sh\nexit 101\n';

export const WORK = '/dev/strata-configure';
export const FAILED = 100;

/** Quotes a word for sh. */
function q(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Where a script that is not in the root file system is staged below the work directory. */
export function stagedScript(unit: UnitFacts, script: ScriptName): string {
  return unit.control === null
    ? `scripts/${unit.layer}_${unit.version.replaceAll('/', '_')}.${script}`
    : `old/${unit.dpkgName}.${DPKG_SCRIPT[script]}`;
}

const PROLOGUE = `
set -u
cd /
umask 022
step() { printf '%s\\n' "$*" >>${WORK}/steps; }
fail() { step "failed $*"; exit ${FAILED}; }
script() {
  s_unit=$1 s_name=$2 s_arch=$3 s_label=$4 s_path=$5; shift 5
  step "script $s_unit $s_label"
  DPKG_MAINTSCRIPT_PACKAGE=$s_name DPKG_MAINTSCRIPT_ARCH=$s_arch DPKG_MAINTSCRIPT_NAME=$s_label \\
  DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_MAINTSCRIPT_DEBUG=0 \\
  DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_RUNNING_VERSION=$dpkg_version "$s_path" "$@" </dev/null
}
configure() {
  dpkg --log=/dev/null --status-fd=9 --abort-after=1 --force-confdef --force-confold "$@" \\
    9>>${WORK}/steps </dev/null || fail configure $?
}
place() {
  [ -e "$2" ] && cmp -s "${WORK}/$1" "$2" && return 0
  [ -d "\${2%/*}" ] || mkdir -p "\${2%/*}" || fail database 1
  cp -p "${WORK}/$1" "$2.strata-new" && mv -f "$2.strata-new" "$2" || fail database 1
}
md5sums() {
  m_info=/var/lib/dpkg/info/$1
  [ -e "$m_info.list" ] && [ ! -e "$m_info.md5sums" ] || return 0
  while IFS= read -r m_path; do
    [ -f "$m_path" ] && [ ! -L "$m_path" ] || continue
    [ -e "$m_info.conffiles" ] && grep -qxF -e "$m_path" "$m_info.conffiles" && continue
    m_sum=$(md5sum <"$m_path") && printf '%s  %s\\n' "\${m_sum%% *}" "\${m_path#/}"
  done <"$m_info.list" >"$m_info.md5sums" || fail md5sums 1
}
seed() {
  [ -e "$2" ] || [ -L "$2" ] || { mkdir -p "\${2%/*}" && cp "${WORK}/$1" "$2" && chmod 644 "$2"; } || fail seed 1
}
`;

const DPKG_BEFORE = `
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers /var/lib/dpkg/alternatives \\
  /var/lib/dpkg/parts /var/log /usr/sbin || fail database 1
for f in status diversions statoverride; do [ -e /var/lib/dpkg/$f ] || : >/var/lib/dpkg/$f; done
[ -e /var/lib/dpkg/info/format ] || echo 1 >/var/lib/dpkg/info/format
alternatives_log=; [ -e /var/log/alternatives.log ] && alternatives_log=kept
dpkg_log=; [ -e /var/log/dpkg.log ] && dpkg_log=kept
policy=; [ -e /usr/sbin/policy-rc.d ] && { policy=kept; mv /usr/sbin/policy-rc.d /usr/sbin/policy-rc.d.strata-old; }
cp -p ${WORK}/policy-rc.d /usr/sbin/ || fail database 1
`;

/** Few processes: each costs about as much as a maintainer script. */
const DPKG_AFTER = `
[ -n "$policy" ] && mv /usr/sbin/policy-rc.d.strata-old /usr/sbin/policy-rc.d
states=$(dpkg-query -W -f '\${db:Status-Abbrev}') || fail audit 1
case $states in *[!i\\ ]*)
  dpkg-query -W -f '\${db:Status-Abbrev}\${binary:Package}\\n' | grep -v '^ii '
  echo 'these packages are not configured'
  fail audit 1
esac
[ -s /etc/machine-id ] && : >/etc/machine-id
set -- /var/lib/dbus/machine-id /var/cache/apt/*.bin /var/lib/dpkg/*-old /var/cache/debconf/*-old \\
  /var/cache/ldconfig/aux-cache /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- \\
  /var/lib/systemd/random-seed /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/dpkg/triggers/Lock \\
  /etc/.pwd.lock /run/adduser /var/log/bootstrap.log /tmp/* /tmp/.[!.]*
[ -n "$policy" ] || set -- "$@" /usr/sbin/policy-rc.d
[ -n "$alternatives_log" ] || set -- "$@" /var/log/alternatives.log
[ -n "$dpkg_log" ] || set -- "$@" /var/log/dpkg.log
rm -rf -- "$@"
`;

/** The whole driver. `seeds` are the paths that are put in place when they do not exist; staged as seed/N. */
export function driverScript(plan: Plan, seeds: string[], dpkgVersion: string): string {
  const lines: string[] = ['#!/bin/sh', `dpkg_version=${q(dpkgVersion)}`, PROLOGUE];
  if (plan.dpkg) lines.push(DPKG_BEFORE, `PATH=${WORK}/bin:$PATH; export PATH`);
  for (const [i, path] of seeds.entries()) lines.push(`seed seed/${i} ${q(`/${path}`)}`);
  for (const unit of plan.removed) lines.push(...borrowInfo(unit));
  for (const step of plan.steps) lines.push(...stepLines(step, plan));
  for (const unit of plan.withoutSums) lines.push(`md5sums ${q(unit.dpkgName)}`);
  if (plan.dpkg) lines.push(DPKG_AFTER);
  lines.push('step done', 'exit 0', '');
  return lines.join('\n');
}

function stepLines(step: Step, plan: Plan): string[] {
  switch (step.do) {
    case 'script': {
      const run = scriptCall(step);
      const fail = `fail script ${q(step.unit.layer)} ${scriptLabel(step.unit, step.script)} $?`;
      if (step.orElse?.do !== 'script') return [`${run} || ${fail}`];
      return [`${run} || ${scriptCall(step.orElse)} || ${fail}`];
    }
    case 'database':
      return plan.dpkg ? databaseLines(plan) : [];
    case 'configure':
      if (step.units === null) return ['configure --configure --pending'];
      if (step.units.length === 0) return [];
      return [
        `configure ${step.forceDepends ? '--force-depends ' : ''}--configure ${step.units.map((u) => q(u.dpkgName)).join(' ')}`,
      ];
    case 'trigger':
      return [
        `dpkg-trigger --no-await --by-package=${q(step.activation.by)} ${q(step.activation.name)} || fail trigger 1`,
      ];
    case 'ldconfig':
      return ['if command -v ldconfig >/dev/null; then step ldconfig; ldconfig || fail ldconfig $?; fi'];
  }
}

function scriptCall(step: Step & { do: 'script' }): string {
  const { unit, script } = step;
  const staged = step.old || unit.control === null;
  const path = staged
    ? `${WORK}/${stagedScript(unit, script)}`
    : `/var/lib/dpkg/info/${unit.dpkgName}.${DPKG_SCRIPT[script]}`;
  const name = unit.dpkgName.replace(/:.*/, '');
  const words = [unit.layer, name, unit.architecture, scriptLabel(unit, script), path, ...step.args];
  return `script ${words.map(q).join(' ')}`;
}

function databaseLines(plan: Plan): string[] {
  const lines: string[] = [];
  // The old units' lists were only lent to their scripts.
  for (const unit of plan.removed)
    if (unit.control !== null) lines.push(`rm -f ${q(`/var/lib/dpkg/info/${unit.dpkgName}`)}.*`);
  lines.push('place status /var/lib/dpkg/status');
  lines.push('place triggers-File /var/lib/dpkg/triggers/File');
  const names = [...plan.triggers.explicit.keys()];
  const keep = ['File', 'Unincorp', 'Lock', ...names].map(q).join('|');
  lines.push(
    `for f in /var/lib/dpkg/triggers/*; do case "\${f##*/}" in ${keep}|\\*) ;; *) rm -f "$f";; esac; done`,
  );
  for (const name of names)
    lines.push(`place ${q(`triggers/${name}`)} ${q(`/var/lib/dpkg/triggers/${name}`)}`);
  if (plan.architectures.length > 0) lines.push('place arch /var/lib/dpkg/arch');
  lines.push('place extended_states /var/lib/apt/extended_states');
  return lines;
}

/** Lends dpkg the file list of a package that is no longer in the stack, while its removal scripts run. */
function borrowInfo(unit: UnitFacts): string[] {
  if (unit.control === null) return [];
  const file = q(`${unit.dpkgName}.list`);
  return [
    `[ -e ${WORK}/info/${file} ] && seed info/${file} ${q(`/var/lib/dpkg/info/${unit.dpkgName}.list`)}`,
  ];
}

/**
 * A stand-in for dpkg-divert, first in PATH. dpkg runs `--rename` before it unpacks the diverting package's own file; here that
 * file is in place already, so it must not be renamed away.
 */
export const DIVERT = `#!/bin/sh
rename= file= own= truename=
for a in "$@"; do
  case "$a" in --rename) rename=1;; --divert|--package) ;; /*) file=$a;; esac
done
list=/var/lib/dpkg/info/\${DPKG_MAINTSCRIPT_PACKAGE:-none}.list
[ -e "$list" ] || list=/var/lib/dpkg/info/\${DPKG_MAINTSCRIPT_PACKAGE:-none}:\${DPKG_MAINTSCRIPT_ARCH:-none}.list
if [ -n "$rename" ] && [ "\${DPKG_MAINTSCRIPT_NAME:-}" = preinst ] && [ -e "$list" ] && grep -qxF -e "$file" "$list"; then
  for a in "$@"; do
    shift
    [ "$a" = --rename ] && a=--no-rename
    set -- "$@" "$a"
  done
fi
exec /usr/bin/dpkg-divert "$@"
`;
