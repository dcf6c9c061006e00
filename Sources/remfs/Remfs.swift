@main struct Remfs { static func main() {} }
