/// What has the shape of a secret and is none: made up, and in parts, so that no service that scans repositories takes this file for a leak.
package enum SampleSecret {
    package static let githubToken = "gh" + "p_" + "Zk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoK"
    package static let awsKey = "AK" + "IAQ3ZT7LM2XVBN6WPD"
    /// What of them must be nowhere else.
    package static let parts = ["Zk8vQ2mXr5", "IAQ3ZT7LM2"]
}
