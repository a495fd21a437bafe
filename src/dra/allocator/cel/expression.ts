import type { Device, DeviceAttribute } from "../../../api/kubernetes.ts";
import type { DeviceEntry } from "../../../topology/inventory.ts";
import { parseNano } from "../../../topology/quantity.ts";
import { attributesRead } from "./attributes-read.ts";
import { withCostLimit } from "./cost.ts";
import { CelDevice, deviceEnvironment } from "./environment.ts";
import { adaptToKubernetes, constantConversions, countCost, type ParsedNode } from "./rewrite.ts";
import { parseSemver } from "./semver.ts";
import { Quantity } from "./values.ts";

/** Whether a device satisfies a selector, or why the expression failed on it. */
type Verdict = boolean | { readonly error: string };

export interface DeviceExpression {
  readonly text: string;
  /** Attributes on which the verdict can depend, as `attributesRead` tells them. */
  readonly reads: readonly string[] | undefined;
  /** Remembered per device for as long as the device's slice is. */
  matches(entry: DeviceEntry): Verdict;
}

/** `k8s.io/api/resource/v1`: CELSelectorExpressionMaxLength. */
const maxExpressionLength = 10 * 1024;
const maxCompiled = 1024;

const environment = deviceEnvironment();
/** Compiled expressions by text; a cache only, dropped whole when it has grown too large. */
const compiled = new Map<string, DeviceExpression | { readonly problem: string }>();

/** Compiles a selector's expression. `problem`: syntax, an unknown name, function or field, or a result that is no bool. */
export function compileExpression(text: string): DeviceExpression | { readonly problem: string } {
  const known = compiled.get(text);
  if (known !== undefined) return known;
  if (compiled.size >= maxCompiled) compiled.clear();
  const result = compileAnew(text);
  compiled.set(text, result);
  return result;
}

function compileAnew(text: string): DeviceExpression | { readonly problem: string } {
  if (text.length > maxExpressionLength) {
    return { problem: `it has ${text.length} characters, more than ${maxExpressionLength}` };
  }
  try {
    const evaluate = environment.parse(text);
    const reads = attributesRead(evaluate.ast as unknown as ParsedNode);
    adaptToKubernetes(evaluate.ast as unknown as ParsedNode, parseNode);
    const check = evaluate.check();
    if (!check.valid) return { problem: summary(check.error) };
    if (check.type !== "bool" && check.type?.startsWith("dyn") !== true) {
      return { problem: `it must evaluate to bool, not ${check.type}` };
    }
    for (const conversion of constantConversions(evaluate.ast as unknown as ParsedNode)) tryConversion(conversion);
    countCost(evaluate.ast as unknown as ParsedNode);
    return remembering(text, reads, (device) => withCostLimit(() => evaluate({ device })));
  } catch (error) {
    return { problem: summary(error) };
  }
}

/** Throws when a conversion of a constant fails. */
function tryConversion(text: string): void {
  const result: unknown = environment.evaluate(text);
  if (typeof result === "bigint" && BigInt.asIntN(64, result) !== result) throw new Error(`${text}: integer overflow`);
}

function parseNode(text: string): ParsedNode {
  return environment.parse(text).ast as unknown as ParsedNode;
}

function remembering(
  text: string,
  reads: readonly string[] | undefined,
  evaluate: (device: CelDevice) => unknown,
): DeviceExpression {
  const verdicts = new WeakMap<Device, { driver: string; verdict: Verdict }>();
  return {
    text,
    reads,
    matches(entry) {
      const known = verdicts.get(entry.device);
      if (known?.driver === entry.driver) return known.verdict;
      const verdict = judge(evaluate, entry);
      verdicts.set(entry.device, { driver: entry.driver, verdict });
      return verdict;
    },
  };
}

function judge(evaluate: (device: CelDevice) => unknown, entry: DeviceEntry): Verdict {
  try {
    const result = evaluate(celDevice(entry));
    return typeof result === "boolean" ? result : { error: `result is not a bool but ${typeof result}` };
  } catch (error) {
    return { error: summary(error) };
  }
}

/** The last one only: the expressions of a claim are evaluated device by device. */
let last: { entry: DeviceEntry; value: CelDevice } | undefined;

/** Throws when an attribute or capacity has a value that kllama cannot read; upstream fails then too. */
function celDevice(entry: DeviceEntry): CelDevice {
  if (last?.entry === entry) return last.value;
  const { device, driver } = entry;
  const attributes = byDomain(driver, device.attributes, celAttribute);
  const capacity = byDomain(driver, device.capacity, ({ value }) => new Quantity(parseNano(value)));
  const value = new CelDevice(driver, device.allowMultipleAllocations === true, attributes, capacity);
  last = { entry, value };
  return value;
}

/** Domain → name → value. A domain that the device lacks reads as an empty map, and is still not `in` the map. */
function byDomain<From, To>(
  driver: string,
  values: Record<string, From> | undefined,
  convert: (value: From, name: string) => To,
): Map<string, Map<string, To>> {
  const domains = new Map<string, Map<string, To>>();
  for (const [qualified, value] of Object.entries(values ?? {})) {
    const slash = qualified.indexOf("/");
    const domain = slash < 0 ? driver : qualified.slice(0, slash);
    const names = domains.get(domain) ?? new Map<string, To>();
    domains.set(domain, names.set(qualified.slice(slash + 1), convert(value, qualified)));
  }
  const absent = new Map<string, To>();
  const get = domains.get.bind(domains);
  domains.get = (domain) => get(domain) ?? absent;
  return domains;
}

function celAttribute(value: DeviceAttribute, name: string): unknown {
  if (value.string !== undefined) return value.string;
  if (value.bool !== undefined) return value.bool;
  if (value.int !== undefined) return BigInt(value.int);
  if (value.version === undefined) throw new Error(`attribute ${name}: unsupported attribute value`);
  const version = parseSemver(value.version);
  if (version === undefined) throw new Error(`attribute ${name}: ${value.version} is not a semantic version`);
  return version;
}

/** First line of the library's message, without the excerpt of the source that follows it. */
function summary(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return (message.split("\n")[0] ?? "").replaceAll("matchesRe2", "matches");
}
