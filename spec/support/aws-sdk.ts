import { S3Client, S3ServiceException, type S3ClientConfig } from '@aws-sdk/client-s3'

// On Node 20 it would write six lines about itself to stderr in every run.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true'

/** What a client needs to know of a server. */
export interface S3Account {
  readonly endpoint: string
  readonly region: string
  readonly accessKey: string
  readonly secretKey: string
  readonly sessionToken?: string
}

/**
 * A client of the AWS SDK, the oracle of the object specs; destroy() it. `config` goes before. Unlike the SDK's default it sends no chunks with a trailer, which
 * not every server takes.
 */
export function sdkClient({ endpoint, region, accessKey, secretKey, sessionToken }: S3Account, config: S3ClientConfig = {}): S3Client {
  return new S3Client({
    endpoint, region, forcePathStyle: true,
    credentials: { accessKeyId: accessKey, secretAccessKey: secretKey, ...(sessionToken === undefined ? {} : { sessionToken }) },
    requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED', ...config
  })
}

/** The S3 error that a command of the SDK ends with; anything else fails the spec. */
export async function refusal(work: Promise<unknown>): Promise<{ readonly status: number | undefined; readonly code: string }> {
  try {
    await work
  } catch (error) {
    if (!(error instanceof S3ServiceException)) throw error
    return { status: error.$metadata.httpStatusCode, code: error.name }
  }
  throw new Error('It was not refused.')
}
