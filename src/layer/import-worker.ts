/** A thread of an import pool: one job after the other, each answered with events and then a unit or an error. */
import { parentPort } from 'node:worker_threads';
import type { ProgressEvent } from '../base/index.ts';
import { asStrataError } from '../base/index.ts';
import { buildUnit } from './build-unit.ts';
import type { BuildOptions, LayerUnit, TarOptions } from './contract.ts';
import { importDeb } from './import-deb.ts';
import type { JobMessage, ReplyMessage } from './import-pool.ts';
import { importTar } from './import-tar.ts';

function reply(message: ReplyMessage): void {
  parentPort!.postMessage(message);
}

function perform({ kind, source, options }: JobMessage): Promise<LayerUnit> {
  const all = { ...options, progress: (event: ProgressEvent) => reply({ event }) };
  if (kind === 'importDeb') return importDeb(source, all);
  if (kind === 'importTar') return importTar(source, all as TarOptions);
  return buildUnit(source, all as BuildOptions);
}

parentPort!.on('message', (job: JobMessage) => {
  perform(job).then(
    (unit) => reply({ unit }),
    (error: unknown) => reply({ error: asStrataError(error).toJSON() }),
  );
});
