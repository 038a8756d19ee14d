/**
 * Configures a composed file system by the distribution's own tools, in one container run. It keeps true: nothing is written outside
 * the root file system and a work directory of its own; on failure the caller throws the scratch layer away and nothing else has
 * changed. Syncs inside are suppressed: the caller makes the result durable once.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { noProgress, type Progress } from '../../base/index.ts';
import { runContainer, STATUS_TIMED_OUT } from '../../runtime/index.ts';
import { aptSourcesSeed } from './apt-sources.ts';
import type { ConfigFile, ConfigureInput, ConfigureResult } from './contract.ts';
import { DIVERT, driverScript, POLICY, stagedScript, WORK } from './driver.ts';
import { failureFromSteps, lastLines } from './failure.ts';
import { CONTAINER_PREFIX, cleanupConfigureOnce, inUse, WORK_PREFIX } from './leftovers.ts';
import { type Plan, planConfigure, type Step } from './plan.ts';
import { readUnitFile, type UnitFacts, unitFacts } from './unit-facts.ts';

const ENV: Record<string, string> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  TERM: 'dumb',
  LC_ALL: 'C',
  LANGUAGE: '',
  DEBIAN_FRONTEND: 'noninteractive',
  DEBCONF_NONINTERACTIVE_SEEN: 'true',
  UCF_FORCE_CONFFOLD: '1',
  APT_LISTCHANGES_FRONTEND: 'none',
  SYSTEMD_OFFLINE: '1',
};

/** Places for the files that `strata run` puts the host's in; without a place there is none. */
const PLACES = ['etc/resolv.conf', 'etc/hosts', 'etc/hostname'];

/** Runs the configuration. Failures of scripts are in the result; it throws only when it could not be tried. */
export async function configureTemplate(input: ConfigureInput): Promise<ConfigureResult> {
  const started = performance.now();
  const progress = input.progress ?? noProgress;
  const plan = planConfigure(input.changes, input.previousStatus);
  const seeds: ConfigFile[] = [...(input.seedFiles ?? [])];
  if (plan.bootstrap) {
    for (const path of PLACES) seeds.push({ path, content: '' });
    const sources = await aptSourcesSeed(
      input.root,
      input.changes.map((change) => change.dir),
    );
    if (sources !== null) seeds.push(sources);
  }
  if (plan.steps.length === 0 && seeds.length === 0)
    return { ok: true, elapsedMs: performance.now() - started, notes: [] };

  await mkdir(join(input.root, 'run'), { recursive: true });
  await cleanupConfigureOnce(input.root);
  const work = await mkdtemp(join(input.root, 'run', WORK_PREFIX));
  const id = `${CONTAINER_PREFIX}${randomBytes(6).toString('hex')}`;
  const mine = [basename(work), id];
  for (const name of mine) inUse.add(name);
  try {
    await stageWork(work, plan, seeds, dpkgVersion(input));
    const result = await runContainer(
      {
        id,
        rootfs: input.rootfs,
        hostname: hostName(input.name),
        command: ['/bin/sh', `${WORK}/driver`],
        env: ENV,
        cwd: '/',
        network: input.network ?? 'none',
        terminal: false,
        mounts: [{ source: work, target: WORK, writable: true }],
        suppressSync: true,
      },
      {
        root: input.root,
        timeoutMs: input.timeoutMs ?? 20 * 60_000 + 3_000 * plan.changed,
        onOutput: progressReporter(progress, plan.changed),
      },
    );
    const elapsedMs = performance.now() - started;
    if (result.status === 0) return { ok: true, elapsedMs, notes: notes(plan) };
    const steps = await readFile(join(work, 'steps'), 'utf8').catch(() => '');
    const timedOut = result.status === STATUS_TIMED_OUT ? '\n(the time limit was met)' : '';
    return {
      ok: false,
      elapsedMs,
      ...failureFromSteps(steps),
      status: result.status,
      output: lastLines(result.output) + timedOut,
    };
  } finally {
    await rm(work, { recursive: true, force: true });
    for (const name of mine) inUse.delete(name);
  }
}

/** Writes everything that the driver needs into the work directory. */
async function stageWork(work: string, plan: Plan, seeds: ConfigFile[], version: string): Promise<void> {
  await chmod(work, 0o755);
  const put = async (path: string, content: string | Uint8Array, mode = 0o644) => {
    const file = join(work, path);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, content);
    await chmod(file, mode); // Whatever the umask is: some are put in place as they are.
  };
  await put(
    'driver',
    driverScript(
      plan,
      seeds.map((s) => s.path),
      version,
    ),
    0o755,
  );
  await put('steps', '');
  for (const [i, seed] of seeds.entries()) await put(`seed/${i}`, seed.content);
  for (const step of plan.steps) await stageScripts(step, put);
  if (!plan.dpkg) return;
  await put('bin/dpkg-divert', DIVERT, 0o755);
  await put('policy-rc.d', POLICY, 0o755);
  await put('status', plan.statusBefore());
  await put('extended_states', plan.extendedStates());
  await put('triggers-File', plan.triggers.file);
  for (const [name, text] of plan.triggers.explicit) await put(`triggers/${name}`, text);
  if (plan.architectures.length > 0) await put('arch', `${plan.architectures.join('\n')}\n`);
  for (const unit of plan.removed) await stageInfo(unit, put);
}

type Put = (path: string, content: string | Uint8Array, mode?: number) => Promise<void>;

async function stageScripts(step: Step, put: Put): Promise<void> {
  if (step.do !== 'script') return;
  if (step.orElse) await stageScripts(step.orElse, put);
  if (!step.old && step.unit.control !== null) return;
  const bytes = readUnitFile(step.unit.dir, `scripts/${step.script}`);
  if (bytes !== null) await put(stagedScript(step.unit, step.script), bytes, 0o755);
}

async function stageInfo(unit: UnitFacts, put: Put): Promise<void> {
  const list = unit.control && readUnitFile(unit.dir, `filesystem/var/lib/dpkg/info/${unit.dpkgName}.list`);
  if (list) await put(`info/${unit.dpkgName}.list`, list);
}

/** The version that dpkg tells its scripts: that of the unit in the stack. */
function dpkgVersion(input: ConfigureInput): string {
  for (const change of input.changes) {
    if (change.kind === 'removed') continue;
    const facts = unitFacts(change.dir);
    if (facts.layer === 'dpkg') return facts.version;
  }
  return '1.21.0';
}

function hostName(name: string): string {
  return name.replace(/[^A-Za-z0-9-]/g, '-').slice(0, 63) || 'template';
}

/** Progress from dpkg's own words, one event a package. */
function progressReporter(progress: Progress, total: number): (bytes: Buffer) => void {
  let rest = '';
  let done = 0;
  return (bytes) => {
    const lines = (rest + bytes.toString('latin1')).split('\n');
    rest = lines.pop()!.slice(0, 4096);
    for (const line of lines) {
      const m = /^Setting up (\S+) \(/.exec(line);
      if (m) progress({ phase: 'configure', message: `configuring ${m[1]}`, done: ++done, total });
    }
  };
}

function notes(plan: Plan): string[] {
  const secrets = plan.steps.some((step) => step.do === 'script' && step.unit.layer === 'openssh-server');
  return secrets ? ['openssh-server made host keys in the template; its appliances share them'] : [];
}
