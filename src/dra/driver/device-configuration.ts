import { z } from "zod";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";

/** Opaque configuration for driver gpu.kllama.ai, as classes, claims and the planner write it into an allocation. */

const apiVersion = "gpu.kllama.ai/v1alpha1";

/** As NVIDIA's driver for Kubernetes names them. */
const timeSlice = z.enum(["Default", "Short", "Medium", "Long"]);
export type TimeSlice = z.output<typeof timeSlice>;

const mpsLimits = z.strictObject({
  /** Share of the GPU's multiprocessors that one program may use. */
  defaultActiveThreadPercentage: z.int().min(1).max(100).exactOptional(),
  /** Memory of each GPU that one program may use: `10G`, `512M`. */
  defaultPinnedDeviceMemoryLimit: z
    .string()
    .regex(/^[1-9]\d{0,8}[MG]$/, "write megabytes or gigabytes, such as 10G")
    .exactOptional(),
});
export type MpsLimits = z.output<typeof mpsLimits>;

const sharing = z.discriminatedUnion("strategy", [
  z.strictObject({
    strategy: z.literal("TimeSlicing"),
    timeSlicingConfig: z.strictObject({ interval: timeSlice }).exactOptional(),
  }),
  z.strictObject({ strategy: z.literal("MPS"), mpsConfig: mpsLimits.exactOptional() }),
]);
export type Sharing = z.output<typeof sharing>;

const deviceConfiguration = z.strictObject({
  apiVersion: z.literal(apiVersion),
  kind: z.literal("DeviceConfig"),
  /** Device names by rank; devices that are not named follow by PCI address. */
  rankOrder: z.array(z.string().min(1).max(63)).min(1).max(32).exactOptional(),
  /** How programs in containers that use the claim share its devices. */
  sharing: sharing.exactOptional(),
});

/** What the configurations of one claim come to. */
export interface ClaimConfiguration {
  rankOrder: readonly string[];
  /** `request`: as the allocation's result names it, `NAME` or `NAME/SUBREQUEST`. */
  sharing(request: string): Sharing | undefined;
}

/**
 * Class before claim, and the last one that says something counts. Configurations name the requests that they are for; none:
 * all. Throws an Error that says what is wrong with which one.
 */
export function claimConfiguration(claim: ResourceClaim): ClaimConfiguration {
  const entries = (claim.status?.allocation?.devices?.config ?? []).filter(
    ({ opaque }) => opaque?.driver === driverName,
  );
  const sorted = [
    ...entries.filter(({ source }) => source === "FromClass"),
    ...entries.filter(({ source }) => source !== "FromClass"),
  ];
  const decoded = sorted.map(({ opaque, source, requests = [] }) => {
    const parsed = deviceConfiguration.safeParse(opaque?.parameters);
    if (parsed.success) return { ...parsed.data, requests };
    const why = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ");
    throw new Error(
      `configuration for ${driverName} (${source}): ${why}; write apiVersion ${apiVersion}, kind DeviceConfig`,
    );
  });
  return {
    rankOrder: decoded.findLast(({ rankOrder }) => rankOrder !== undefined)?.rankOrder ?? [],
    sharing(request) {
      const [name = ""] = request.split("/");
      const applies = (requests: readonly string[]): boolean =>
        requests.length === 0 || requests.includes(name) || requests.includes(request);
      return decoded.findLast((each) => each.sharing !== undefined && applies(each.requests))?.sharing;
    },
  };
}
