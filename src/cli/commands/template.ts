/** `strata template ...`: named sets of layers that appliances follow. */
import type { Result } from '../../daemon/contract.ts';
import type { ArgumentSpec, CommandSpec, Invocation, Outcome } from '../command.ts';
import { countOf, formatDuration } from '../format.ts';
import { flag, text, texts, word, wordList } from '../words.ts';

const name: ArgumentSpec = { name: 'NAME', description: 'the template', kind: 'template' };
const layers: ArgumentSpec = {
  name: 'LAYER',
  description: 'nginx, main/nginx, main/nginx=1.22.1-9 (that version) or =main/nginx (held)',
  kind: 'offered',
  variadic: true,
};

type Template = Result<'templateShow'>;

function sizeOf(template: Template): string {
  return `${countOf(template.units, 'layer')} (${template.explicit.length} explicit)`;
}

/** Without the LDF's text, which `template show` prints for people. */
function asJson(template: Template): unknown {
  const { name, generation, explicit, implicit, refs, units, appliances } = template;
  return { name, generation, explicit, implicit, refs, units, appliances };
}

async function hold(invocation: Invocation, held: boolean): Promise<Outcome> {
  const layer = word(invocation, 1);
  const template = await invocation.context.call('templateHold', { name: word(invocation, 0), layer, held });
  return {
    json: asJson(template),
    human: (print) =>
      print.line(`${layer} is ${held ? 'held' : 'free to be updated'} in template ${template.name}`),
  };
}

async function change(invocation: Invocation, method: 'templateAdd' | 'templateRemove'): Promise<Outcome> {
  const template = await invocation.context.call(method, {
    name: word(invocation, 0),
    layers: wordList(invocation, 1),
  });
  return {
    json: asJson(template),
    human: (print) =>
      print.line(
        `template ${template.name} is now generation ${template.generation}: ${sizeOf(template)}; ${countOf(template.appliances, 'appliance')} follow`,
      ),
  };
}

export const TEMPLATE_COMMANDS: CommandSpec[] = [
  {
    path: 'template create',
    summary: 'Resolve, compose and configure a template',
    details:
      "Layers that the given ones need are chosen by the resolver; packages are fetched once, and configured by the distribution's own tools. When anything fails, everything is as it was.",
    args: [
      { name: 'NAME', description: 'name for the template', kind: 'text' },
      { ...layers, optional: true },
    ],
    options: [
      {
        long: '--from',
        value: 'TEMPLATE',
        kind: 'template',
        repeat: true,
        description: 'begin with everything of another template (repeatable)',
      },
      { long: '--recommends', description: 'also add what the layers recommend' },
      { long: '--no-configure', description: "do not run the packages' scripts" },
    ],
    examples: [
      ['strata template create web nginx-light', 'a web server and all it needs'],
      ['strata template create shop --from web mariadb-server', 'more on top of another template'],
    ],
    run: async (invocation) => {
      const template = await invocation.context.call('templateCreate', {
        name: word(invocation, 0),
        layers: wordList(invocation, 1),
        from: texts(invocation, 'from'),
        ...(flag(invocation, 'recommends') ? { recommends: true } : {}),
        ...(invocation.options['configure'] === false ? { configure: false } : {}),
      });
      return {
        json: { ...(asJson(template) as object), elapsed_ms: template.elapsed_ms, timings: template.timings },
        human: (print) =>
          print.line(
            `template ${template.name}: ${sizeOf(template)}, made in ${formatDuration(template.elapsed_ms)}`,
          ),
      };
    },
  },
  {
    path: 'template add',
    summary: 'Add layers to a template; its appliances follow',
    args: [name, layers],
    examples: [['strata template add web local/hello', 'every appliance of web has it at once']],
    run: (invocation) => change(invocation, 'templateAdd'),
  },
  {
    path: 'template remove',
    summary: 'Remove layers from a template; its appliances follow',
    args: [name, layers],
    examples: [['strata template remove web local/hello', 'what only it needed goes with it']],
    run: (invocation) => change(invocation, 'templateRemove'),
  },
  {
    path: 'template hold',
    summary: 'Keep the version of a layer at updates',
    args: [name, { ...layers, variadic: false }],
    examples: [['strata template hold web main/nginx-light', 'it stays until it is unheld']],
    run: (invocation) => hold(invocation, true),
  },
  {
    path: 'template unhold',
    summary: 'Let a held layer be updated again',
    args: [name, { ...layers, variadic: false }],
    examples: [['strata template unhold web main/nginx-light', 'the next update takes the newest']],
    run: (invocation) => hold(invocation, false),
  },
  {
    path: 'template show',
    summary: 'Print the layer definition file of a template',
    args: [name],
    examples: [
      ['strata template show web', 'explicit layers first, then what the resolver chose'],
      ["strata template show web --json | jq '.implicit | length'", 'for programs'],
    ],
    run: async (invocation) => {
      const template = await invocation.context.call('templateShow', { name: word(invocation, 0) });
      return {
        json: asJson(template),
        human: (print) => {
          for (const line of template.ldf.replace(/\n$/, '').split('\n')) print.line(line);
        },
      };
    },
  },
  {
    path: 'template list',
    summary: 'List the templates',
    examples: [['strata template list', 'with their generation, layers and appliances']],
    run: async ({ context }) => {
      const result = await context.call('templateList', {});
      return {
        json: result,
        human: (print) =>
          print.table(
            ['NAME', 'GENERATION', 'LAYERS', 'APPLIANCES'],
            result.templates.map((t) => [
              t.name,
              String(t.generation),
              String(t.layers),
              String(t.appliances),
            ]),
            'no templates; `strata template create` makes one',
          ),
      };
    },
  },
  {
    path: 'template delete',
    summary: 'Delete a template that nothing uses',
    args: [name],
    examples: [['strata template delete shop', 'its layers stay for others']],
    run: async (invocation) => {
      const deleted = word(invocation, 0);
      await invocation.context.call('templateDelete', { name: deleted });
      return { json: { deleted }, human: (print) => print.line(`template ${deleted} deleted`) };
    },
  },
  {
    path: 'template freeze',
    summary: "Make an appliance's private layer the template's config layer",
    details:
      'What was set up in one appliance then holds for all of the template; the appliance gets a fresh private layer. Look at `strata diff` first: secrets would be shared too.',
    args: [name],
    options: [
      {
        long: '--from',
        value: 'APPLIANCE',
        kind: 'appliance',
        required: true,
        description: 'the appliance whose changes are taken',
      },
    ],
    examples: [['strata template freeze web --from web-setup', 'set up once, used by all']],
    run: async (invocation) => {
      const from = text(invocation, 'from')!;
      const template = await invocation.context.call('templateFreeze', { name: word(invocation, 0), from });
      return {
        json: asJson(template),
        human: (print) =>
          print.line(
            `the changes of ${from} are now in template ${template.name}, generation ${template.generation}`,
          ),
      };
    },
  },
];
