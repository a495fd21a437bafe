import type { Writable } from "node:stream";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { nearest, wrap } from "./text.ts";

/** Where a command writes and what it may read of its surroundings. */
export interface Streams {
  stdout: Writable & { isTTY?: boolean; columns?: number };
  stderr: Writable & { isTTY?: boolean };
  env: Readonly<Record<string, string | undefined>>;
}

/** One flag: what `parseArgs` wants to know, and what `--help` says. `value` names the value of a string flag. */
export interface Flag {
  type: "string" | "boolean";
  multiple?: boolean;
  short?: string;
  default?: string;
  value?: string;
  describe: string;
}
type Flags = Readonly<Record<string, Flag>>;
/** Flag name → value: a string, `true`, or a list for `multiple`; absent when not given and without a default. */
export type FlagValues<F extends Flags> = ReturnType<
  typeof parseArgs<{ options: F; strict: true; allowPositionals: false }>
>["values"];

export interface CommandSpec<F extends Flags> {
  name: string;
  /** One line, for the list of commands. */
  summary: string;
  /** What it does, for `--help` of the command. */
  description: string;
  flags: F;
  /** What may stand beside the flags, once, such as `POD`; absent: nothing. */
  operand?: string;
  /** Any number of operands may be given, not one. */
  manyOperands?: boolean;
  examples: readonly { what: string; command: string }[];
  /** @returns the exit code: 0 done, 1 failed. Throws UsageError for flags that make no sense. */
  run(values: FlagValues<F>, streams: Streams, ...operands: string[]): Promise<number>;
}

/** A command whose types of flags are its own affair. */
export interface Command {
  name: string;
  summary: string;
  help(): string;
  run(args: readonly string[], streams: Streams): Promise<number>;
}

/** The command line itself is wrong: exit code 2, with a hint at `--help`. */
export class UsageError extends Error {}

const helpFlag = { type: "boolean", short: "h", describe: "Print this help." } as const satisfies Flag;

export function defineCommand<const F extends Flags>(spec: CommandSpec<F>): Command {
  const flags: Flags = { ...spec.flags, help: helpFlag };
  const help = (): string => commandHelp(spec, flags);
  return {
    name: spec.name,
    summary: spec.summary,
    help,
    async run(args, streams) {
      const { operands, ...read } = readFlags(flags, args, spec.operand !== undefined);
      const values = read.values as FlagValues<F> & { help?: boolean };
      if (values.help === true) {
        streams.stdout.write(help());
        return 0;
      }
      if (operands.length > 1 && spec.manyOperands !== true) {
        throw new UsageError(`unexpected argument ${JSON.stringify(operands[1])}; one ${spec.operand} at a time`);
      }
      return spec.run(values, streams, ...operands);
    },
  };
}

function readFlags(
  flags: Flags,
  args: readonly string[],
  allowPositionals: boolean,
): { values: Record<string, unknown>; operands: string[] } {
  try {
    const config = { options: flags, args: [...args], strict: true, allowPositionals };
    const { values, positionals } = parseArgs(config as ParseArgsConfig);
    return { values: { ...values }, operands: positionals };
  } catch (error) {
    throw new UsageError(usageMessage(flags, error as Error & { code?: string }));
  }
}

/** Node's messages explain how `parseArgs` reads a command line; ours say what to write instead. */
function usageMessage(flags: Flags, error: Error & { code?: string }): string {
  const quoted = /'([^']+)'/.exec(error.message)?.[1] ?? "";
  switch (error.code) {
    case "ERR_PARSE_ARGS_UNKNOWN_OPTION": {
      const similar = nearest(quoted.replace(/^-+/, ""), Object.keys(flags));
      return `unknown flag ${quoted}${similar === undefined ? "" : `; did you mean --${similar}?`}`;
    }
    case "ERR_PARSE_ARGS_UNEXPECTED_POSITIONAL":
      return `unexpected argument ${JSON.stringify(quoted)}; all input is given with flags`;
    case "ERR_PARSE_ARGS_INVALID_OPTION_VALUE": {
      const name = /--([a-z-]+)/.exec(quoted)?.[1] ?? "";
      const wantsValue = flags[name]?.type === "string";
      return wantsValue
        ? `flag --${name} needs a value: --${name}=${flags[name]?.value}`
        : `flag --${name} takes no value`;
    }
    default:
      return error.message;
  }
}

const indent = 30;
const width = 100;

function commandHelp<F extends Flags>(spec: CommandSpec<F>, flags: Flags): string {
  const lines = Object.entries(flags).map(([name, flag]) => flagHelp(name, flag));
  const examples = spec.examples.map(({ what, command }) => `  # ${what}\n  ${command}\n`);
  return [
    `Usage: kllama ${spec.name}${operandHelp(spec)} [flags]\n`,
    `${wrap(spec.description, width, "")}\n`,
    `Flags:\n${lines.join("\n")}\n`,
    `Examples:\n${examples.join("\n")}`,
  ].join("\n");
}

function operandHelp({ operand, manyOperands }: { operand?: string; manyOperands?: boolean }): string {
  if (operand === undefined) return "";
  return manyOperands === true ? ` [${operand}...]` : ` [${operand}]`;
}

function flagHelp(name: string, flag: Flag): string {
  const short = flag.short === undefined ? "    " : `-${flag.short}, `;
  const left = `  ${short}--${name}${flag.value === undefined ? "" : ` ${flag.value}`}`;
  const extra = [
    ...(flag.multiple === true ? ["May be given several times."] : []),
    ...(flag.default === undefined ? [] : [`Default: ${flag.default}.`]),
  ];
  const right = wrap([flag.describe, ...extra].join(" "), width, " ".repeat(indent)).trimStart();
  return left.length < indent ? `${left.padEnd(indent)}${right}` : `${left}\n${" ".repeat(indent)}${right}`;
}
